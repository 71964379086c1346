"""Control messages inside the tunnel, byte by byte."""

from contextlib import suppress
from ipaddress import ip_address
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectivity.p2p import AssignedIps, ControlError, ControlEvent, DomainStatus, Goodbye, build, is_control, parse

RESOURCE = UUID("00000000-0000-0000-0000-000000000065")
PROXIES = tuple(ip_address(f"100.96.0.{host}") for host in range(1, 5))
PROXIES_V6 = tuple(ip_address(f"fd00:2021:1111:8000::{host}") for host in range(4))


def header(length: int) -> bytes:
    return bytes.fromhex("60000000") + length.to_bytes(2, "big") + b"\xff\x00" + bytes(32)


def packet(event_type: int, payload: bytes) -> bytes:
    return header(8 + len(payload)) + bytes((event_type,)) + bytes(7) + payload


def test_domain_status_to_the_byte() -> None:
    payload = b'{"resource":"00000000-0000-0000-0000-000000000065","domain":"example.com","status":"Active"}'
    expected = bytes.fromhex("600000000064ff00") + bytes(32) + bytes.fromhex("0100000000000000") + payload
    assert len(expected) == 140
    assert build(DomainStatus(RESOURCE, "example.com", active=True)) == expected
    assert parse(expected) == DomainStatus(RESOURCE, "example.com", active=True)


def test_goodbye_to_the_byte() -> None:
    expected = bytes.fromhex("600000000008ff00") + bytes(32) + bytes.fromhex("0200000000000000")
    assert len(expected) == 48
    assert build(Goodbye()) == expected
    assert parse(expected) == Goodbye()


def test_assigned_ips_to_the_byte() -> None:
    payload = (
        b'{"resource":"00000000-0000-0000-0000-000000000065","domain":"app.example.com",'
        b'"proxy_ips":["100.96.0.1","100.96.0.2","100.96.0.3","100.96.0.4"]}'
    )
    assert build(AssignedIps(RESOURCE, "app.example.com", PROXIES)) == packet(0, payload)


def test_the_longest_assignment_fits_a_tunnel_packet() -> None:
    longest = ".".join(("a" * 63, "b" * 63, "c" * 63, "d" * 61))
    ips = tuple(ip_address(f"100.111.255.{host}") for host in range(250, 254))
    ips += tuple(ip_address(f"fd00:2021:1111:8000:ffff:ffff:ffff:fff{host}") for host in range(4))
    assert len(build(AssignedIps(RESOURCE, longest, ips))) <= 1280


def test_a_status_other_than_active_means_inactive() -> None:
    assert b'"status":"Inactive"' in build(DomainStatus(RESOURCE, "example.com", active=False))
    payload = b'{"resource":"00000000-0000-0000-0000-000000000065","domain":"example.com","status":"active"}'
    assert parse(packet(1, payload)) == DomainStatus(RESOURCE, "example.com", active=False)


def test_unknown_fields_and_bytes_behind_the_packet_do_not_matter() -> None:
    payload = b'{"more":1,"domain":"a","status":"Active","resource":"00000000-0000-0000-0000-000000000065"}'
    assert parse(packet(1, payload) + bytes(12)) == DomainStatus(RESOURCE, "a", active=True)


@pytest.mark.parametrize("count", [0, 1, 3, 5, 9])
def test_four_or_eight_proxy_addresses_are_assigned(count: int) -> None:
    with pytest.raises(ValueError, match="four or eight"):
        build(AssignedIps(RESOURCE, "a", (ip_address("100.96.0.1"),) * count))


@pytest.mark.parametrize(
    ("event_type", "payload"),
    [
        (3, b""),
        (255, b"{}"),
        (0, b""),
        (0, b"\xff"),
        (0, b"[]"),
        (0, b"[" * 1200),
        (1, b"{}"),
        (1, b'{"resource":"x","domain":"a","status":"Active"}'),
        (1, b'{"resource":1,"domain":"a","status":"Active"}'),
        (1, b'{"resource":"00000000-0000-0000-0000-000000000065","domain":"a","status":true}'),
        (1, b'{"resource":"00000000-0000-0000-0000-000000000065","domain":"\\ud800","status":"Active"}'),
        (0, b'{"resource":"00000000-0000-0000-0000-000000000065","domain":"a","proxy_ips":"100.96.0.1"}'),
        (0, b'{"resource":"00000000-0000-0000-0000-000000000065","domain":"a","proxy_ips":[1684014081]}'),
        (0, b'{"resource":"00000000-0000-0000-0000-000000000065","domain":"a","proxy_ips":["100.96.0.0/24"]}'),
        (0, b'{"resource":"00000000-0000-0000-0000-000000000065","domain":"a","proxy_ips":["fe80::1%eth0"]}'),
    ],
)
def test_what_cannot_be_understood_is_one_kind_of_error(event_type: int, payload: bytes) -> None:
    malformed = packet(event_type, payload)
    assert is_control(malformed)
    with pytest.raises(ControlError):
        parse(malformed)


def test_a_truncated_packet_is_refused() -> None:
    whole = build(DomainStatus(RESOURCE, "example.com", active=True))
    with pytest.raises(ControlError, match="shorter"):
        parse(whole[:-1])


@pytest.mark.parametrize(
    "other",
    [
        b"",
        build(Goodbye())[:47],
        header(7) + bytes(8),
        b"\x40" + build(Goodbye())[1:],
        build(Goodbye())[:6] + b"\x11" + build(Goodbye())[7:],
        build(Goodbye())[:23] + b"\x01" + build(Goodbye())[24:],
        build(Goodbye())[:39] + b"\x01" + build(Goodbye())[40:],
    ],
)
def test_other_packets_are_no_control_packets(other: bytes) -> None:
    assert not is_control(other)
    with pytest.raises(ControlError, match="not a control packet"):
        parse(other)


def test_views_are_recognised_as_well() -> None:
    assert is_control(memoryview(build(Goodbye())))
    assert parse(memoryview(bytearray(build(Goodbye())))) == Goodbye()


@given(
    st.one_of(
        st.builds(DomainStatus, st.uuids(), st.text(st.characters(codec="utf-8")), active=st.booleans()),
        st.builds(
            AssignedIps,
            st.uuids(),
            st.text(st.characters(codec="utf-8")),
            st.lists(st.ip_addresses(), min_size=4, max_size=4).map(tuple),
        ),
    )
)
def test_events_read_back(event: ControlEvent) -> None:
    assert parse(build(event)) == event


@given(st.integers(0, 255), st.binary(max_size=200))
def test_any_payload_gives_an_event_or_a_control_error(event_type: int, payload: bytes) -> None:
    with suppress(ControlError):
        parse(packet(event_type, payload))
