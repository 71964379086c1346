"""How long a client is without its resource after each thing that may happen, in every kind of network.

Virtual time: what processes need to start, and what sockets and kernels add, is not in it.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import pytest

from connectivity.clock import MILLISECOND, SECOND, Duration
from tests.simulation.traffic import Kind
from tests.simulation.world import World

INTERVAL: Final = 50 * MILLISECOND
MOMENT: Final = 200 * MILLISECOND
NAT_MOMENT: Final = 26 * SECOND  # the checks of a path give up (16.5 s), or a keep-alive tells a relay (25 s)
PATIENCE: Final = 60 * SECOND
ENOUGH: Final = 60  # answers in a row that show that it is over
NETWORKS: Final = (  # of the client, of the gateway: direct by each way of traversal, and relayed
    ("open", "open"),
    ("firewall", "by address"),
    ("port restricted", "full cone"),
    ("short memory", "symmetric"),
    ("symmetric", "symmetric"),
    ("only relays", "only relays"),
)
Step: TypeAlias = tuple[float, Callable[[World], object]]  # seconds after the first one


def _again(how: str, name: str) -> Step:
    """A process ends, and another begins at once."""
    return 0, lambda world: (getattr(world, how)(name), world.start(name))


def _relays(*, new_address: bool) -> Step:
    return 0, lambda world: [
        world.restart_relay(name, new_secret=True, new_address=new_address) for name in world.relays
    ]


def _change(resource: str) -> Step:
    def act(world: World) -> None:
        world.book.change(resource, is_filtered=True, is_elsewhere=False, now=world.network.now)
        world.write()

    return 0, act


def _roam(*versions: int) -> Step:
    return 0, lambda world: world.roam("alice", "port restricted", versions, notice=0)


#: What happens, and how long packets may be lost then.
FAULTS: Final[dict[str, tuple[Duration, tuple[Step, ...]]]] = {
    "the portal restarts": (MOMENT, ((0, lambda w: w.portal.stop()), (1, lambda w: w.portal.start()))),
    "the portal is away": (MOMENT, ((0, lambda w: w.portal.stop()), (10, lambda w: w.portal.start()))),
    "the client loses the portal": (0, ((0, lambda w: w.cut_control("alice")), (8, lambda w: w.mend_control("alice")))),
    "the gateway loses the portal": (0, ((0, lambda w: w.cut_control("desk")), (8, lambda w: w.mend_control("desk")))),
    "the gateway stops, another starts": (MOMENT, (_again("stop", "desk"),)),
    "the gateway dies, another starts": (2 * SECOND, (_again("kill", "desk"),)),
    "the gateway begins anew": (2 * SECOND, ((0, lambda w: w.tunnellers["desk"].reset(moved=False)),)),
    "the client signs in again": (MOMENT, (_again("stop", "alice"),)),
    "the client begins anew": (MOMENT, ((0, lambda w: w.tunnellers["alice"].reset(moved=False)),)),
    "the client roams": (MOMENT, (_roam(4, 6),)),
    "the client roams to IPv6 only": (MOMENT, (_roam(6),)),
    "the client's cable is out for 2 s": (
        2 * SECOND + MOMENT,
        ((0, lambda w: w.cut("alice")), (2, lambda w: w.plug("alice"))),
    ),
    "relays restart": (700 * MILLISECOND, (_relays(new_address=False),)),
    "relays restart elsewhere": (5 * SECOND, (_relays(new_address=True),)),
    "the client's router restarts": (NAT_MOMENT, ((0, lambda w: w.reboot_router("alice")),)),
    "the gateway's router restarts": (NAT_MOMENT, ((0, lambda w: w.reboot_router("desk")),)),
    "a filter changes": (0, (_change("printers"),)),
    "another resource changes": (0, (_change("wiki"),)),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("homes", NETWORKS, ids=" and ".join)
def test_what_happens_takes_a_resource_away_for_a_moment_only(homes: tuple[str, str], fault: str) -> None:
    home = {"alice": homes[0], "desk": homes[1], "cellar": "open"}
    world = World(3, home, versions={"alice": (4,), "desk": (4,)}, relays=("east", "west"))
    allowed, steps = FAULTS[fault]
    try:
        world.reach("alice", "printers")
        world.advance(SECOND)
        assert _silence(world, steps) - INTERVAL <= allowed
    finally:
        world.close()


def _silence(world: World, steps: tuple[Step, ...]) -> Duration:
    """The longest time between packets that were answered, until all are after the last step."""
    begun = last = world.network.now
    open_steps = [(begun + round(seconds * SECOND), act) for seconds, act in steps]
    waiting, longest, answered = [], 0, 0
    while answered < ENOUGH:
        assert world.network.now - begun < PATIENCE, "it does not come back"
        while open_steps and open_steps[0][0] <= world.network.now:
            open_steps.pop(0)[1](world)
            answered = 0
        sent = world.send("alice", "printers", Kind.UDP)
        waiting += [] if sent is None else [sent]
        world.advance(INTERVAL)
        for done in [sent for sent in waiting if sent.answers]:
            waiting.remove(done)
            longest, last, answered = max(longest, done.at - last), done.at, answered + 1
    return longest
