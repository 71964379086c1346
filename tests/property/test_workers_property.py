"""Any mixture of packets comes out of a gateway with workers as out of one without, whatever becomes of the workers.

Two worlds live the same history. In both the kernel merges what comes to the gateway from one address in one size,
of several clients behind one relay, too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Final, cast

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from connectivity.clock import MILLISECOND, SECOND
from connectivity.run import Received, Run
from tests.unit import world as worlds
from tests.unit.connectivity.fragments import fragments
from tests.unit.connectivity.ip_oracle import with_checksums
from tests.unit.test_world import RESOURCE_HOST, udp
from tests.unit.worker_gateway import WorkerGateway
from tests.unit.world import World

CLIENTS: Final = ("client", "client-2")
RUN_SEGMENTS: Final = 8


class MergingWorld(World):
    """What reaches the gateway is merged as UDP_GRO does."""

    held: list[Received] = []

    def receive(self, name: str, received: Received) -> None:
        if name != "gateway":
            super().receive(name, received)
            return
        first = self.held[0] if self.held else received
        alike = (first.local, first.remote, first.tos) == (received.local, received.remote, received.tos)
        if not alike or received.run.segment_count > 1 or len(received.run.data) > len(first.run.data):
            self.release()
            first = received
        self.held = [*self.held, received]
        is_full = len(self.held) == RUN_SEGMENTS or len(received.run.data) != len(first.run.data)
        if is_full or received.run.segment_count > 1:
            self.release()

    def release(self) -> None:
        """Nothing more is waited for."""
        held, self.held = self.held, []
        if held:
            data = bytearray(b"".join(received.run.data for received in held))
            super().receive("gateway", held[0]._replace(run=Run(memoryview(data), held[0].run.segment_size)))

    def advance(self, duration: int) -> None:
        until = self.now + duration
        while self.now < until:
            super().advance(min(20 * MILLISECOND, until - self.now))
            self.release()


@contextmanager
def gateway_made_by(make: Callable[..., object]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worlds, "GatewayCore", make)
        yield


def address(name: str, version: int = 4) -> str:
    return ("100.64.0.2", "100.64.0.12")[CLIENTS.index(name)] if version == 4 else ""


def up(world: World, name: str, port: int, size: int, count: int, tos: int) -> None:
    for number in range(count):
        payload = number.to_bytes(2, "big") + bytes(size)
        world.send_from_client(udp(address(name), RESOURCE_HOST, payload, 4000 + port, 53, tos), name=name)


def down(world: World, name: str, port: int, size: int, count: int, tos: int) -> None:
    for number in range(count):
        payload = number.to_bytes(2, "big") + bytes(size)
        world.send_from_gateway(udp(RESOURCE_HOST, address(name), payload, 53, 4000 + port, tos))


def up_in_fragments(world: World, name: str, port: int, size: int, count: int, tos: int) -> None:
    del count, tos
    packet = with_checksums(udp(address(name), RESOURCE_HOST, bytes(1200 + size), 4000 + port, 53))
    for fragment in fragments(packet, size=600):
        world.send_from_client(fragment, name=name)


def up_where_it_may_not(world: World, name: str, port: int, size: int, count: int, tos: int) -> None:
    for _ in range(count):
        world.send_from_client(udp(address(name), "10.20.0.9", bytes(size), 4000 + port, 99, tos), name=name)
        spoofed = udp("100.64.0.99", RESOURCE_HOST, bytes(size), 4000 + port, 53, tos)
        world.send_from_client(spoofed, name=name)


def reject(world: World, name: str, *_: int) -> None:
    world.to_gateway("reject_access", {"client_id": world.ends[name].device_id, "resource_id": "r-1"})


def wait(world: World, _: str, port: int, *__: int) -> None:
    World.advance(world, port * 15 * SECOND)  # as it was meant: nothing is merged
    world.advance(100 * MILLISECOND)


STEPS: Final = (up, up, down, down, up_in_fragments, up_where_it_may_not, reject, wait)
step = st.tuples(
    st.sampled_from(STEPS),
    st.sampled_from(CLIENTS),
    st.integers(0, 3),
    st.sampled_from((0, 10, 1100)),
    st.integers(1, 5),
    st.sampled_from((0, 2, 0x2E << 2)),
)
fate = st.one_of(st.none(), st.integers(0, 1))


def live(history: list[tuple[object, ...]], fates: list[int | None], *, direct: bool) -> dict[str, list[bytes]]:
    world = MergingWorld(clients=2, direct=direct, versions=(4,))
    world.filters = [{"protocol": "udp", "port_range_start": 53, "port_range_end": 53}]
    world.start()
    for name in CLIENTS:
        up(world, name, 0, 0, 1, 0)
    world.advance(2 * SECOND)
    for number, (action, *arguments) in enumerate(history):
        chosen = fates[number % len(fates)] if fates else None
        gateway = world.gateway
        if chosen is not None and isinstance(gateway, WorkerGateway):
            if gateway.workers[chosen] is None:
                gateway.revive(chosen)
            else:
                gateway.kill(chosen)
        cast(Callable[..., None], action)(world, *arguments)
        world.advance(100 * MILLISECOND)
    world.advance(SECOND)
    assert world.errors == []
    return {name: sorted(received) for name, received in world.host_received.items()}


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate],  # each takes a second: what fails is told as it is
)
@given(history=st.lists(step, max_size=12), fates=st.lists(fate, max_size=6), direct=st.booleans())
def test_the_same_comes_out(history: list[tuple[object, ...]], fates: list[int | None], direct: bool) -> None:
    plain = live(history, [], direct=direct)
    with gateway_made_by(WorkerGateway):
        assert live(history, fates, direct=direct) == plain
    assert plain["gateway"]
    assert ip_address(plain["gateway"][0][12:16]).is_global is False
