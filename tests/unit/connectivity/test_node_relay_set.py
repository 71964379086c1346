"""The list of relays without a node: what is asked of a relay that does not answer, and when."""

from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise
from random import Random

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.node.relays import RelayServer, RelaySet
from connectivity.run import Transmit

START = 1_000 * SECOND
HOUR = 3600 * SECOND
SILENT = RelayServer("relay-1", (Endpoint(ip_address("203.0.113.1"), 3478),), "1893456000:salt", "secret")


class Waking:
    """A set of relays of which none answers."""

    def __init__(self) -> None:
        self.now = START
        self.used: set[str | None] = set()
        self.relays = RelaySet(software="test", rng=Random(1).randbytes)
        self.relays.update((), [SILENT], self.now)

    def sent(self, until: int) -> list[int]:
        """When something is sent."""
        times = []
        while True:
            while self.relays.poll_transmit() is not None:
                times.append(self.now)
            deadline = self.relays.poll_timeout()
            if deadline is None or deadline > until:
                return times
            assert deadline >= self.now
            self.now = deadline
            self.relays.handle_timeout(self.now)
            self.relays.free_dead(self.now)
            self.relays.leave_unused(lambda: self.used, self.now)


def test_a_silent_relay_is_asked_again_less_and_less_often() -> None:
    waking = Waking()
    pauses = [later - earlier for earlier, later in pairwise(waking.sent(START + 300 * SECOND))]
    # Four copies each time, the last one waited for; then 1, 2, 4 ... at most 60 s of nothing.
    rests = [pause / SECOND - 3.375 for pause in pauses if pause > 3 * SECOND]
    assert rests[:8] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_relay_silent_for_an_hour_is_not_asked_any_more() -> None:
    waking = Waking()
    times = waking.sent(START + 3 * HOUR)
    assert HOUR < times[-1] - START < HOUR + 120 * SECOND
    assert waking.relays.poll_timeout() is None


def test_nobody_picks_a_relay_that_fell_silent_until_the_portal_names_it_again() -> None:
    waking = Waking()
    assert waking.relays.pick() == "relay-1"
    waking.sent(START + 8 * SECOND + SECOND // 2)
    assert "relay-1" not in waking.relays
    waking.sent(START + 10 * SECOND)
    assert "relay-1" in waking.relays
    assert waking.relays.pick() is None
    waking.relays.update((), [SILENT], waking.now)
    assert waking.relays.pick() == "relay-1"


def test_a_relay_that_the_portal_takes_back_is_not_asked_again() -> None:
    waking = Waking()
    waking.sent(START + 8 * SECOND + SECOND // 2)
    waking.relays.update(["relay-1"], (), waking.now)
    assert waking.sent(START + 400 * SECOND) == []
    assert waking.relays.poll_timeout() is None


def test_a_relay_that_falls_silent_while_it_is_being_left_is_forgotten_at_once() -> None:
    waking = Waking()
    waking.used = {"relay-1"}
    waking.relays.update(["relay-1"], (), waking.now)
    assert len(waking.sent(START + 400 * SECOND)) == 4
    assert waking.relays.get("relay-1") is None
    assert waking.relays.poll_timeout() is None


def test_a_relay_that_comes_back_under_another_name_is_not_left_but_used() -> None:
    waking = Waking()
    (address,) = SILENT.addresses
    waking.relays.update(["relay-1"], (), waking.now)
    left = waking.relays.at(address)
    assert left is not None
    assert waking.relays.get("relay-1") is left
    waking.relays.update((), [replace(SILENT, relay_id="relay-2")], waking.now)
    assert waking.relays.get("relay-1") is None
    assert waking.relays.at(address) is waking.relays.get("relay-2") is not left


def test_from_other_sockets_every_known_relay_is_asked_at_once_the_silent_one_too() -> None:
    waking = Waking()
    waking.sent(START + 8 * SECOND + SECOND // 2)
    other = replace(SILENT, relay_id="relay-2", addresses=(Endpoint(ip_address("203.0.113.2"), 3478),))
    leaving = replace(SILENT, relay_id="relay-3", addresses=(Endpoint(ip_address("203.0.113.3"), 3478),))
    waking.relays.update((), [other, leaving], waking.now)
    waking.relays.update(["relay-3"], (), waking.now)
    old = waking.relays
    waking.relays = old.anew(software="other", now=waking.now)
    assert {str(transmit.destination.ip) for transmit in drained(waking.relays)} == {"203.0.113.1", "203.0.113.2"}
    assert waking.relays.pick() is not None
    # What an old allocation still brings is no peer's, be its relay one that we go on with or not.
    late = [Endpoint(ip_address(f"203.0.113.{last}"), 3478) for last in (1, 2, 3)]
    assert all(waking.relays.is_relay_address(address) for address in late)


def test_a_relay_named_again_as_it_was_is_left_alone_and_one_with_another_password_or_address_is_not() -> None:
    waking = Waking()
    both = replace(SILENT, addresses=(*SILENT.addresses, Endpoint(ip_address("2001:db8::1"), 3478)))
    asked = []
    for server in (
        SILENT,
        SILENT,
        replace(SILENT, password="other"),
        both,
        replace(both, addresses=both.addresses[::-1]),
    ):
        waking.relays.update((), [server], waking.now)
        asked.append(len(drained(waking.relays)))
    assert asked == [1, 0, 1, 2, 0]


def drained(relays: RelaySet) -> list[Transmit]:
    found = []
    while (transmit := relays.poll_transmit()) is not None:
        found.append(transmit)
    return found
