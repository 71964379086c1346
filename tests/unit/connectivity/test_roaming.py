"""What is another network, and what only looks like one."""

from ipaddress import ip_address

import pytest

from connectivity.clock import SECOND
from connectivity.roaming import Clocks, Route, Routes

PORTAL = ip_address("203.0.113.10")
PORTAL6 = ip_address("2001:db8::10")
RELAY = ip_address("203.0.113.101")
HOME = Route(ip_address("192.168.1.5"), ip_address("192.168.1.1"), 2)
HOME6 = Route(ip_address("2001:db8:1::5"), ip_address("fe80::1"), 2)
OWN = frozenset({HOME.source, HOME6.source})


def at_home(*destinations: str) -> Routes:
    routes = Routes()
    assert routes.compare({ip_address(text): HOME6 if ":" in text else HOME for text in destinations}, OWN) == ""
    return routes


@pytest.mark.parametrize(
    ("now", "own", "said"),
    [
        (HOME, OWN, ""),
        (HOME._replace(link=3), OWN, "another link"),
        (HOME._replace(gateway=ip_address("192.168.1.2")), OWN, "another gateway"),
        (HOME._replace(source=ip_address("192.168.1.6")), {ip_address("192.168.1.6")}, "another source address"),
        # A privacy address, or one more beside it: what was begun from the old one goes on.
        (HOME._replace(source=ip_address("192.168.1.6")), {ip_address("192.168.1.6"), HOME.source}, ""),
    ],
)
def test_source_gateway_and_link_make_a_route(now: Route, own: frozenset[object], said: str) -> None:
    assert at_home(str(PORTAL)).compare({PORTAL: now}, own) == said  # type: ignore[arg-type]  # addresses


def test_a_source_that_is_not_preferred_any_more_counts_until_it_is_gone() -> None:
    routes, other = at_home(str(PORTAL6)), HOME6._replace(source=ip_address("2001:db8:1::6"))
    assert routes.compare({PORTAL6: other}, {other.source, HOME6.source}) == ""
    assert routes.compare({PORTAL6: other}, {other.source}) == "another source address"


def test_without_any_network_it_waits_for_the_old_one_to_come_back() -> None:
    routes = at_home(str(PORTAL), str(RELAY))
    assert routes.compare({PORTAL: None, RELAY: None}, set()) == ""
    assert routes.compare({PORTAL: HOME, RELAY: HOME}, OWN) == ""
    assert routes.compare({PORTAL: None, RELAY: None}, set()) == ""
    assert routes.compare({PORTAL: HOME, RELAY: HOME._replace(link=7)}, OWN) == "another link"


def test_from_one_family_to_the_other_and_back() -> None:
    routes = at_home(str(PORTAL))
    assert routes.compare({PORTAL: None, PORTAL6: None}, set()) == ""
    assert routes.compare({PORTAL: None, PORTAL6: HOME6}, OWN) == "a destination is out of reach"
    routes.forget()
    assert routes.compare({PORTAL: None, PORTAL6: HOME6}, OWN) == ""
    assert routes.compare({PORTAL: HOME, PORTAL6: None}, OWN) == "a destination is out of reach"


def test_while_the_portal_is_out_of_reach_what_works_goes_on() -> None:
    """Who begins anew has to log in: it would give up a connection by IPv6 for nothing."""
    routes = at_home(str(PORTAL), str(PORTAL6))
    assert routes.compare({PORTAL: None, PORTAL6: HOME6}, OWN, needed=[PORTAL]) == ""
    assert routes.compare({PORTAL: HOME, PORTAL6: HOME6}, OWN, needed=[PORTAL]) == ""
    moved = HOME._replace(link=3)
    assert routes.compare({PORTAL: moved, PORTAL6: HOME6}, OWN, needed=[PORTAL]) == "another link"
    assert routes.compare({PORTAL: None, PORTAL6: HOME6}, OWN) == "a destination is out of reach"


def test_one_more_family_or_one_more_relay_is_no_other_network() -> None:
    routes = at_home(str(PORTAL))
    assert routes.compare({PORTAL: HOME, PORTAL6: HOME6, RELAY: HOME}, OWN) == ""
    assert routes.compare({PORTAL: HOME, PORTAL6: HOME6, RELAY: HOME._replace(link=3)}, OWN) == "another link"


def test_a_relay_that_is_not_ours_any_more_is_not_missed() -> None:
    routes = at_home(str(PORTAL), str(RELAY))
    assert not routes.are_of([PORTAL])
    assert routes.compare({PORTAL: HOME}, OWN) == ""
    assert routes.are_of([PORTAL])


def test_it_is_said_until_all_was_made_anew() -> None:
    routes, moved = at_home(str(PORTAL)), HOME._replace(link=3)
    assert [routes.compare({PORTAL: moved}, OWN) for _ in range(2)] == ["another link"] * 2
    assert routes.compare({PORTAL: HOME}, OWN) == ""  # it came back before anything was done
    routes.forget()
    assert routes.compare({PORTAL: moved}, OWN) == ""
    assert routes.compare({PORTAL: HOME}, OWN) == "another link"


def test_who_slept_sees_it_by_either_clock_and_once() -> None:
    clocks = Clocks(100 * SECOND, 150 * SECOND, 1_000 * SECOND)
    assert clocks.slept(101 * SECOND, 151 * SECOND, 1_001 * SECOND) == 0
    assert clocks.slept(102 * SECOND, 212 * SECOND, 1_062 * SECOND) == 60 * SECOND  # suspended
    assert clocks.slept(103 * SECOND, 213 * SECOND, 1_063 * SECOND) == 0
    assert clocks.slept(104 * SECOND, 214 * SECOND, 1_094 * SECOND) == 30 * SECOND  # a machine that was paused
    assert clocks.slept(105 * SECOND, 215 * SECOND, 1_000 * SECOND) == 0  # somebody set the clock back
