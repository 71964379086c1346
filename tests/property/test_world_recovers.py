"""Whatever happened before, once everything works again packets pass: no history leaves client or gateway stuck.

Histories are sequences of the things that happen to a deployment: relays die, restart with the same or another secret,
leave the list; paths close and open; gateways stop; the portal reconnects, revokes, changes keys, renames resources.
"""

from collections.abc import Callable
from typing import Final

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from connectivity.clock import MILLISECOND, SECOND
from tests.unit.test_world import answer, question
from tests.unit.world import RESOURCE, World

MANAGED: Final = RESOURCE | {"gateway_groups": [{"id": "s", "name": "site"}]}


def presence(world: World, *, gone: bool) -> None:
    for end in list(world.ends.values()):
        relays = [] if gone else world.relays(end.keys)
        world.to(end.name, "relays_presence", {"disconnected_ids": ["relay-1"] if gone else [], "connected": relays})


def reconnect(world: World) -> None:
    rows = [
        {"client_id": "c-1", "resource_id": "r-1", "expires_at": world.wall_now // SECOND + 3600},
    ]
    for end in list(world.ends.values()):
        init = world.client_init(end.name) if end.is_client else world.gateway_init(rows, name=end.name)
        world.to(end.name, "init", init)


def kill_relay(world: World) -> None:
    world.relay_alive = False


def restart_relay(world: World, secret: str) -> None:
    world.start_relay(secret)
    presence(world, gone=False)


def stop_gateway(world: World, name: str) -> None:
    if name in world.online:
        world.close(name)


def start_gateways(world: World) -> None:
    world.online = [end.name for end in world.ends.values() if not end.is_client]


def set_direct(world: World, direct: bool) -> None:
    world.direct = direct


def renew_keys(world: World) -> None:
    world.generation += 1


def replace_resource(world: World) -> None:
    world.to_client("resource_deleted", "r-1")
    world.to_client("resource_created_or_updated", MANAGED)


def revoke(world: World) -> None:
    for name in ("gateway", "gateway-2"):
        world.to(name, "reject_access", {"client_id": "c-1", "resource_id": "r-1"})


STEPS: Final[dict[str, Callable[[World], None]]] = {
    "send": lambda world: world.send_from_client(question(b"on the way")),
    "answer": lambda world: world.send_from_gateway(answer()),
    "kill relay": kill_relay,
    "restart relay": lambda world: restart_relay(world, world.stamp_secret),
    "restart relay anew": lambda world: restart_relay(world, world.stamp_secret + "x"),
    "lose relay": lambda world: presence(world, gone=True),
    "list relay": lambda world: presence(world, gone=False),
    "reconnect": reconnect,
    "stop gateway": lambda world: stop_gateway(world, "gateway"),
    "stop other gateway": lambda world: stop_gateway(world, "gateway-2"),
    "start gateways": start_gateways,
    "close direct path": lambda world: set_direct(world, False),
    "open direct path": lambda world: set_direct(world, True),
    "renew keys": renew_keys,
    "replace resource": replace_resource,
    "revoke": revoke,
}
DELAYS: Final = (0, 3 * MILLISECOND, 300 * MILLISECOND, 3 * SECOND, 11 * SECOND, 35 * SECOND, 200 * SECOND)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 1 << 16),
    history=st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.sampled_from(DELAYS)), max_size=12),
)
@example(seed=0, history=[("kill relay", 0), ("list relay", 0), ("lose relay", 3 * SECOND)])  # nothing to give back
def test_no_history_leaves_anybody_stuck(seed: int, history: list[tuple[str, int]]) -> None:
    world = World(seed=seed, gateways=2, versions=(4,))
    world.is_recorded = False
    world.start()
    for step, delay in history:
        STEPS[step](world)
        world.advance(delay)
    start_gateways(world)
    if not world.relay_alive:
        world.start_relay(world.stamp_secret)
    reconnect(world)
    for name in ("gateway", "gateway-2"):
        world.host_received[name].clear()
    last = b""
    for number in range(40):  # a host repeats itself; the slowest way to notice a loss is idle: 102 s
        last = b"%d" % number
        world.send_from_client(question(last))
        world.advance(3 * SECOND)
    received = world.host_received["gateway"] + world.host_received["gateway-2"]
    assert question(last) in received
