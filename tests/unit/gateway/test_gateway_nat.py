"""Bindings and sessions of one client, and when they end."""

from collections import Counter
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectivity.clock import SECOND
from gateway.nat import (
    CLOSED_LIFETIME,
    EXPIRED_LIFETIME,
    ICMP_LIFETIME,
    MAX_EXPIRED,
    TCP_LIFETIME,
    UDP_LIFETIME,
    UNCONFIRMED_LIFETIME,
    Capacity,
    Key,
    NatTable,
    Session,
)
from gateway.reasons import GatewayDrop

NOW = 1_000 * SECOND
TCP, UDP, ICMP = 6, 17, 1
PROXIES = [ip_address(f"100.96.0.{number}") for number in range(1, 4)]
REAL = ip_address("10.0.0.1")
REALS = [REAL, ip_address("10.0.0.2")]
FIN, SYN, RST = 1, 2, 4


def table(**limits: int) -> NatTable:
    return NatTable(Capacity(limits.pop("total", 1000)), **limits)


def opened(nat: NatTable, protocol: int = TCP, port: int = 5000, proxy: int = 0, peer_port: int = 80) -> Session:
    session = nat.open(Key(protocol, port, PROXIES[proxy]), peer_port, REAL, "r", NOW)
    assert isinstance(session, Session)
    return session


def used(session: Session, *, sent: int | None = None, got: int | None = None) -> None:
    session.outbound.last_used = sent if sent is not None else session.outbound.last_used
    session.inbound.last_used = got if got is not None else session.inbound.last_used


def test_the_port_stays_unless_it_is_taken_and_then_counts_upwards() -> None:
    nat = table()
    assert opened(nat, proxy=0).binding.outside == Key(TCP, 5000, REAL)
    assert opened(nat, proxy=1).binding.outside == Key(TCP, 5001, REAL)
    assert opened(nat, proxy=0, port=5001).binding.outside == Key(TCP, 5002, REAL)
    assert opened(nat, UDP, proxy=1).binding.outside == Key(UDP, 5000, REAL)


def test_counting_goes_on_from_one_behind_the_last_port() -> None:
    nat = table()
    assert [opened(nat, port=65535, proxy=proxy).binding.outside.port for proxy in range(3)] == [65535, 1, 2]


def test_a_row_of_taken_ports_is_not_counted_through_for_each_session() -> None:
    nat = table(total=9000)
    for port in range(60_000, 64_000):
        opened(nat, port=port)
    looked_at = Counter[str]()

    class Counted(dict[int, Any]):
        def __contains__(self, port: object) -> bool:
            looked_at["ports"] += 1
            return super().__contains__(port)

    ports = nat._outside[TCP, REAL]
    ports.bindings = Counted(ports.bindings)
    mapped = [opened(nat, port=port, proxy=1).binding.outside.port for port in range(60_000, 61_000)]
    assert mapped == list(range(64_000, 65_000))
    assert looked_at["ports"] < 80_000  # 64 each, and the row once


def test_all_ports_may_be_taken() -> None:
    nat = NatTable(Capacity(), limit=70_000)
    for port in range(1, 65536):
        nat.open(Key(UDP, port, PROXIES[0]), 53, REAL, "r", NOW)
    assert nat.open(Key(UDP, 7, PROXIES[1]), 53, REAL, "r", NOW) is GatewayDrop.NAT_EXHAUSTED
    assert isinstance(nat.open(Key(UDP, 7, PROXIES[1]), 53, REALS[1], "r", NOW), Session)


def test_a_port_that_is_in_use_without_translation_is_avoided() -> None:
    session = table().open(Key(TCP, 5000, PROXIES[0]), 80, REAL, "r", NOW, is_taken=lambda port: port < 5002)
    assert isinstance(session, Session)
    assert session.binding.outside.port == 5002


def test_if_all_that_are_near_are_in_use_one_of_them_has_to_do() -> None:
    asked: list[int] = []

    def is_taken(port: int) -> bool:
        asked.append(port)
        return True

    session = table().open(Key(TCP, 5000, PROXIES[0]), 80, REAL, "r", NOW, is_taken=is_taken)
    assert isinstance(session, Session)
    assert session.binding.outside.port == 5000
    assert len(asked) < 100


def test_an_open_binding_keeps_its_real_address_for_further_ports_of_the_peer_too() -> None:
    nat = table()
    first = opened(nat)
    again = nat.open(first.binding.inside, 80, REALS[1], "r", NOW)
    other = nat.open(first.binding.inside, 443, REALS[1], "r", NOW)
    assert again is first
    assert isinstance(other, Session)
    assert other is not first
    assert other.binding is first.binding
    assert other.outbound.destination == REAL


@pytest.mark.parametrize(
    ("protocol", "lifetime"), [(TCP, TCP_LIFETIME), (UDP, UDP_LIFETIME), (ICMP, ICMP_LIFETIME), (58, ICMP_LIFETIME)]
)
@pytest.mark.parametrize("last_is_inbound", [False, True])
def test_either_direction_keeps_a_session_alive(protocol: int, lifetime: int, last_is_inbound: bool) -> None:
    nat = table()
    session = opened(nat, protocol)
    used(session, sent=NOW, got=NOW)
    last = NOW + lifetime - SECOND
    used(session, **{"got" if last_is_inbound else "sent": last})
    assert nat.sweep(NOW + lifetime) == []
    assert nat.sweep(last + lifetime - 1) == []
    assert nat.sweep(last + lifetime) == [session]
    assert nat.is_expired(session.binding.outside)
    assert nat.inside(session.binding.inside) is None
    assert nat.outside(session.binding.outside) is None


def test_without_an_answer_it_is_a_minute_since_the_last_packet() -> None:
    nat = table()
    session = opened(nat)
    used(session, sent=NOW + 30 * SECOND)
    assert nat.sweep(NOW + UNCONFIRMED_LIFETIME) == []
    assert nat.sweep(NOW + 30 * SECOND + UNCONFIRMED_LIFETIME) == [session]


def test_an_answer_after_a_look_at_it_counts() -> None:
    nat = table()
    session = opened(nat)
    used(session, sent=NOW)
    assert nat.sweep(NOW + 59 * SECOND) == []
    used(session, got=NOW + 59 * SECOND)
    assert nat.sweep(NOW + 59 * SECOND + TCP_LIFETIME - 1) == []


@pytest.mark.parametrize("direction", ["outbound", "inbound"])
def test_a_reset_ends_it_at_the_next_look(direction: str) -> None:
    nat = table()
    session = opened(nat)
    used(session, sent=NOW, got=NOW)
    getattr(session, direction).tcp_flags |= RST
    assert nat.sweep(NOW + SECOND) == [session]


def test_closed_by_both_sides_it_ends_five_seconds_later() -> None:
    nat = table()
    session = opened(nat)
    used(session, sent=NOW, got=NOW)
    session.outbound.tcp_flags |= SYN | FIN
    assert nat.sweep(NOW + SECOND) == []
    assert nat.sweep(NOW + 60 * SECOND) == []  # half closed is open
    session.inbound.tcp_flags |= SYN | FIN
    assert nat.sweep(NOW + 61 * SECOND) == []
    session.outbound.tcp_flags |= FIN  # sent again
    session.inbound.tcp_flags |= FIN
    assert nat.sweep(NOW + 61 * SECOND + CLOSED_LIFETIME - 1) == []
    assert nat.sweep(NOW + 61 * SECOND + CLOSED_LIFETIME) == [session]


def test_a_new_connection_of_the_same_ports_lives_on() -> None:
    nat = table()
    session = opened(nat)
    used(session, sent=NOW, got=NOW)
    session.outbound.tcp_flags |= SYN | FIN
    session.inbound.tcp_flags |= SYN | FIN
    assert nat.sweep(NOW + SECOND) == []
    session.outbound.tcp_flags |= SYN
    assert nat.sweep(NOW + 2 * SECOND) == []
    assert nat.sweep(NOW + 60 * SECOND) == []


def test_what_one_connection_does_ends_no_other_of_the_same_port() -> None:
    nat = table()
    download, other = opened(nat, peer_port=443), opened(nat, peer_port=80)
    for session in (download, other):
        used(session, sent=NOW, got=NOW)
    other.outbound.tcp_flags |= RST
    assert nat.sweep(NOW + SECOND) == [other]
    assert nat.outside(download.binding.outside) is download.binding
    assert not nat.is_expired(download.binding.outside)


def test_an_expired_outside_key_is_remembered_until_it_is_used_again_or_long_ago() -> None:
    nat = table()
    session = opened(nat, UDP)
    outside = session.binding.outside
    assert nat.sweep(NOW + UNCONFIRMED_LIFETIME) == [session]
    opened(nat, UDP)
    assert not nat.is_expired(outside)
    nat.sweep(NOW + UNCONFIRMED_LIFETIME)
    nat.release(outside)
    assert not nat.is_expired(outside)
    opened(nat, UDP)
    ended_at = NOW + 2 * UNCONFIRMED_LIFETIME
    nat.sweep(ended_at)
    nat.sweep(ended_at + EXPIRED_LIFETIME - 1)
    assert nat.is_expired(outside)
    nat.sweep(ended_at + EXPIRED_LIFETIME)
    assert nat.is_idle


def test_the_memory_of_expired_keys_is_bounded() -> None:
    nat = NatTable(Capacity())
    for port in range(1, MAX_EXPIRED + 2):
        opened(nat, UDP, port)
    nat.sweep(NOW + UNCONFIRMED_LIFETIME)
    assert not nat.is_expired(Key(UDP, 1, REAL))
    assert nat.is_expired(Key(UDP, 2, REAL))


def test_a_full_table_says_whose_share_is_used_up() -> None:
    capacity = Capacity(3)
    first, second = NatTable(capacity, limit=2), NatTable(capacity, limit=2)
    opened(first, port=1)
    kept = opened(first, port=2)
    assert first.open(Key(TCP, 3, PROXIES[0]), 80, REAL, "r", NOW) is GatewayDrop.NAT_FULL_FOR_CLIENT
    assert opened(first, port=2) is kept  # what is open goes on
    opened(second, port=1)
    assert second.open(Key(TCP, 2, PROXIES[0]), 80, REAL, "r", NOW) is GatewayDrop.NAT_FULL
    first.clear()
    opened(second, port=2)
    assert capacity.used == 2


def test_the_end_of_a_resource_ends_its_sessions_only() -> None:
    nat = table()
    session = opened(nat)
    other = nat.open(Key(TCP, 5000, PROXIES[1]), 80, REAL, "s", NOW)
    assert nat.end_resource("r", NOW) == [session]
    assert nat.is_expired(session.binding.outside)
    assert [*nat.clear()] == [other]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from((TCP, UDP, ICMP)), st.integers(1, 4), st.integers(0, 2), st.integers(0, 1)),
        st.integers(1, 200),
    ),
    max_size=40,
)


@given(STEPS)
def test_bindings_are_bijective_and_each_direction_inverts_the_other(
    steps: list[tuple[int, int, int, int] | int],
) -> None:
    capacity = Capacity(24)
    nat = NatTable(capacity, limit=16)
    open_sessions: dict[tuple[Key, int], Session] = {}
    now = NOW
    for step in steps:
        if isinstance(step, int):
            now += step * SECOND
            for session in nat.sweep(now):
                del open_sessions[session.binding.inside, session.peer_port]
        else:
            protocol, port, proxy, real = step
            inside = Key(protocol, port, PROXIES[proxy])
            result = nat.open(inside, port % 2, REALS[real], "r", now)
            if isinstance(result, Session):
                open_sessions[inside, port % 2] = result
                used(result, sent=now, got=now if port > 2 else None)
        bindings = {session.binding for session in open_sessions.values()}
        assert len(bindings) == len({binding.inside for binding in bindings})
        assert len(bindings) == len({binding.outside for binding in bindings})
        for (inside, _), session in open_sessions.items():
            outside = Key(inside.protocol, session.outbound.source_port or 0, session.outbound.destination or REAL)
            assert nat.inside(inside) is nat.outside(outside) is session.binding
            assert (session.inbound.source, session.inbound.destination_port) == (inside.address, inside.port)
            assert not nat.is_expired(outside)
        assert len(nat) == capacity.used == len(open_sessions) <= 16
    nat.clear()
    assert capacity.used == 0
    assert nat.is_idle
