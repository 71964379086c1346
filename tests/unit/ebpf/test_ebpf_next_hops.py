"""Slots of next hops: shared by destinations, resolved again in time, bounded."""

from ipaddress import ip_address
from typing import Final

from connectivity.clock import SECOND, Instant
from connectivity.endpoint import IPAddress
from ebpf.layout import MAX_NEXT_HOPS, NextHop
from ebpf.netlink import Route
from ebpf.next_hops import REFRESH_INTERVAL, RESOLVE_INTERVAL, NextHops

GATEWAY: Final = ip_address("192.0.2.254")
FAR: Final = (ip_address("198.51.100.1"), ip_address("198.51.100.2"))
HOP: Final = NextHop(2, 1500, bytes(6), bytes(6))
MOVED: Final = NextHop(2, 1500, bytes(5) + b"\1", bytes(6))


class Host:
    """A host whose routes and neighbours the test sets."""

    def __init__(self) -> None:
        self.routes: dict[IPAddress, Route] = dict.fromkeys(FAR, Route(2, GATEWAY))
        self.neighbours: dict[Route, NextHop] = {}
        self.written: list[tuple[int, NextHop | None]] = []
        self.next_hops = NextHops(
            route_to=self.routes.get,
            neighbour=self.neighbours.get,
            write=lambda slot, hop: self.written.append((slot, hop)),
        )

    def refresh(self, now: Instant) -> None:
        """What the thread that looks does, and the one that follows."""
        self.next_hops.learn({route: self.neighbours.get(route) for route in self.next_hops.due(now)}, now)


def test_destinations_behind_one_gateway_share_a_slot() -> None:
    host = Host()
    host.neighbours[Route(2, GATEWAY)] = HOP
    assert [host.next_hops.slot(each, 0) for each in FAR] == [1, 1]
    assert host.written == [(1, HOP)]


def test_no_route_is_no_slot() -> None:
    assert Host().next_hops.slot(ip_address("203.0.113.1"), 0) == 0


def test_an_unresolved_neighbour_is_asked_for_again_each_second() -> None:
    host = Host()
    assert host.next_hops.slot(FAR[0], 0) == 1
    host.neighbours[Route(2, GATEWAY)] = HOP
    host.refresh(RESOLVE_INTERVAL - 1)
    assert host.written == [(1, None)]
    host.refresh(RESOLVE_INTERVAL)
    assert host.written == [(1, None), (1, HOP)]


def test_a_neighbour_that_moved_is_followed() -> None:
    host = Host()
    host.neighbours[Route(2, GATEWAY)] = HOP
    host.next_hops.slot(FAR[0], 0)
    host.neighbours[Route(2, GATEWAY)] = MOVED
    host.refresh(5 * SECOND)
    assert host.written == [(1, HOP)]
    host.refresh(REFRESH_INTERVAL)
    assert host.written == [(1, HOP), (1, MOVED)]


def test_the_table_is_bounded() -> None:
    host = Host()
    destinations = [ip_address(0x0A000000 + number) for number in range(MAX_NEXT_HOPS + 5)]
    host.routes.update({each: Route(2, each) for each in destinations})
    slots = [host.next_hops.slot(each, 0) for each in destinations]
    assert slots[: MAX_NEXT_HOPS - 1] == list(range(1, MAX_NEXT_HOPS))
    assert set(slots[MAX_NEXT_HOPS - 1 :]) == {0}
