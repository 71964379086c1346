"""Where packets to names go at the gateway, and how answers and errors come back."""

import struct

import pytest

from connectivity.clock import SECOND
from tests.unit.connectivity.ip_oracle import checksums_are_right
from tests.unit.gateway.gateway_stage import (
    DNS,
    GRE,
    ICMP,
    LAN,
    PROXIES_V4,
    PROXY,
    PROXY_V6,
    REAL,
    REAL_V6,
    TCP,
    UDP,
    V4,
    V6,
    Stage,
    about,
    is_icmp,
    key,
    packet,
)


@pytest.mark.parametrize("protocol", [TCP, UDP, ICMP])
@pytest.mark.parametrize("version", [4, 6])
def test_there_and_back(protocol: int, version: int) -> None:
    stage = Stage()
    stage.set_up(REAL, REAL_V6)
    inside, proxy, real = (V4, PROXY, REAL) if version == 4 else (V6, PROXY_V6, REAL_V6)
    ports = (5000, 0) if protocol == ICMP else (5000, 80)
    back = (5000, 1) if protocol == ICMP else (80, 5000)
    for payload in (b"first", b"second", b"third"):
        (out,) = stage.from_client(packet(protocol, inside, proxy, ports, payload=payload))
        assert out == packet(protocol, inside, real, ports, payload=payload)
        (answer,) = stage.from_host(packet(protocol, real, inside, back, payload=payload))
        assert answer == packet(protocol, proxy, inside, back, payload=payload)
    assert stage.drops == {}


def test_a_taken_port_is_mapped_and_put_back() -> None:
    stage = Stage()
    stage.set_up(REAL)
    sent = [stage.from_client(packet(UDP, V4, proxy)) for proxy in PROXIES_V4]
    assert [key(data) for (data,) in sent] == [(V4, REAL, port, 80) for port in range(5000, 5004)]
    back = [stage.from_host(packet(UDP, REAL, V4, (80, port))) for port in range(5000, 5004)]
    assert [key(data) for (data,) in back] == [(str(proxy), V4, 80, 5000) for proxy in PROXIES_V4]
    assert all(checksums_are_right(data) for (data,) in sent + back)


def test_whole_runs_are_translated() -> None:
    stage = Stage()
    stage.set_up(REAL)
    rows = [packet(TCP, V4, PROXY, payload=bytes([value]) * 100) for value in range(20)]
    expected = [packet(TCP, V4, REAL, payload=bytes([value]) * 100) for value in range(20)]
    assert stage.from_client(*rows) == expected


def test_a_new_resolution_moves_new_flows_and_keeps_open_sessions() -> None:
    stage = Stage()
    stage.set_up(REAL)
    stage.from_client(packet(TCP, V4, PROXY))
    stage.set_up("10.0.0.6")
    assert [key(data)[1] for data in stage.from_client(packet(TCP, V4, PROXY))] == [REAL]
    assert [key(data)[1] for data in stage.from_client(packet(TCP, V4, PROXY, (5001, 80)))] == ["10.0.0.6"]
    assert [key(data)[0] for data in stage.from_host(packet(TCP, REAL, V4, (80, 5000)))] == [str(PROXY)]


def test_without_translation_it_is_prohibited_and_without_an_address_unreachable() -> None:
    stage = Stage()
    assert stage.from_client(packet(TCP, V4, PROXY)) == []
    assert is_icmp(stage.node.sent[-1][1], 3, 13)
    stage.set_up(REAL)
    assert stage.from_client(packet(TCP, V6, PROXY_V6)) == []
    assert is_icmp(stage.node.sent[-1][1], 1, 3)
    assert key(stage.node.sent[-1][1])[:2] == (str(PROXY_V6), V6)
    stage.set_up()  # a name without any address
    assert stage.from_client(packet(TCP, V4, PROXY)) == []
    assert is_icmp(stage.node.sent[-1][1], 3, 0)
    assert stage.drops == {"filtered": 1, "name_unreachable": 2}


@pytest.mark.parametrize(
    "real",
    [
        "127.0.0.1", "169.254.169.254", "169.254.7.7", "100.64.0.1", "100.64.0.77", "100.96.0.9", "0.0.0.0",
        "224.0.0.1", "168.63.129.16",
    ],
)  # fmt: skip
def test_no_name_leads_to_the_gateways_host_a_peer_or_metadata(real: str) -> None:
    stage = Stage()
    stage.set_up(real, "::1", "::ffff:10.0.0.5", "fe80::1", "fd00:2021:1111::2", "fd00:ec2::254", "64:ff9b::127.0.0.1")
    for source, proxy in ((V4, PROXY), (V6, PROXY_V6)):
        assert stage.from_client(packet(TCP, source, proxy)) == []
    assert stage.drops == {"name_unreachable": 2}
    stage.set_up(real, REAL)  # the others of the name serve
    assert [key(data)[1] for data in stage.from_client(packet(TCP, V4, PROXY))] == [REAL]


def test_what_nat_does_not_know_is_dropped_and_goes_to_networks_as_before() -> None:
    stage = Stage(DNS, LAN)
    stage.set_up(REAL)
    before = len(stage.node.sent)
    assert stage.from_client(packet(GRE, V4, PROXY)) == []
    timestamp = bytearray(packet(ICMP, V4, PROXY, (5000, 0), payload=bytes(12)))
    timestamp[20] = 13
    assert stage.from_client(bytes(timestamp)) == []
    assert len(stage.node.sent) == before
    assert stage.drops == {"untranslatable": 2}
    assert len(stage.from_client(packet(GRE, V4, "10.0.0.9"))) == 1
    assert len(stage.from_host(packet(GRE, "10.0.0.9", V4))) == 1


def test_filters_of_the_name_hold_both_ways() -> None:
    stage = Stage()
    stage.set_up(REAL)
    stage.from_client(packet(TCP, V4, PROXY))
    stage.resources[DNS]["filters"] = [{"protocol": "tcp", "port_range_start": 443, "port_range_end": 443}]
    stage.portal("resource_updated", stage.resources[DNS])
    assert stage.from_host(packet(TCP, REAL, V4, (80, 5000))) == []
    assert stage.from_client(packet(TCP, V4, PROXY)) == []
    assert len(stage.from_client(packet(TCP, V4, PROXY, (5000, 443)))) == 1
    assert stage.drops == {"filtered_reply": 1, "filtered": 1}


@pytest.mark.parametrize("protocol", [TCP, UDP, ICMP])
def test_an_icmp_error_about_a_session_names_what_the_client_knows(protocol: int) -> None:
    stage = Stage()
    stage.set_up(REAL)
    ports = (5000, 0) if protocol == ICMP else (5000, 80)
    stage.from_client(packet(protocol, V4, PROXIES_V4[1], ports))
    (sent,) = stage.from_client(packet(protocol, V4, PROXY, ports))  # mapped to 5001
    (error,) = stage.from_host(about(sent, "192.0.2.77", kind=3, code=4, rest=struct.pack(">HH", 0, 1000)))
    assert is_icmp(error, 3, 4)
    assert key(error)[:2] == (str(PROXY), V4)
    assert error[26:28] == struct.pack(">H", 1000)
    assert error[28 + 16 : 28 + 20] == PROXY.packed
    at = 28 + 20 + (4 if protocol == ICMP else 0)
    assert struct.unpack_from(">H", error, at) == (5000,)
    assert stage.drops == {}


def test_too_big_comes_back_in_ipv6_too() -> None:
    stage = Stage()
    stage.set_up(REAL_V6)
    (sent,) = stage.from_client(packet(TCP, V6, PROXY_V6))
    (error,) = stage.from_host(about(sent, "2001:db8::77", kind=2, code=0, rest=struct.pack(">I", 1300)))
    assert key(error)[:2] == (str(PROXY_V6), V6)
    assert error[44:48] == struct.pack(">I", 1300)
    assert error[48 + 24 : 48 + 40] == PROXY_V6.packed


def test_an_icmp_error_about_no_session_of_the_client_goes_nowhere() -> None:
    stage = Stage(DNS, LAN)
    stage.set_up("10.1.0.5", REAL)
    (sent,) = stage.from_client(packet(UDP, V4, PROXY))
    stage.from_client(packet(UDP, V4, "10.0.0.9"))
    stranger = packet(UDP, V4, "10.1.0.99")
    assert stage.from_host(about(stranger, "192.0.2.77")) == []
    other_port = packet(UDP, V4, key(sent)[1], (5000, 81))
    assert stage.from_host(about(other_port, "192.0.2.77")) == []
    stage.advance(61 * SECOND)
    assert stage.from_host(about(sent, "192.0.2.77")) == []
    assert stage.drops == {"filtered_reply": 1, "nat_expired": 2}


def test_icmp_errors_of_clients_about_names_are_dropped_quietly() -> None:
    stage = Stage()
    stage.set_up(REAL)
    stage.from_client(packet(UDP, V4, PROXY))
    (answer,) = stage.from_host(packet(UDP, REAL, V4, (80, 5000)))
    before = len(stage.node.sent)
    assert stage.from_client(about(answer, V4, to=str(PROXY))) == []
    assert len(stage.node.sent) == before
    assert stage.drops == {"untranslatable": 1}


def test_the_same_host_by_name_and_by_address_is_kept_apart() -> None:
    stage = Stage(DNS, LAN)
    stage.set_up(REAL)
    (plain,) = stage.from_client(packet(TCP, V4, REAL))
    (named,) = stage.from_client(packet(TCP, V4, PROXY))
    assert (key(plain), key(named)) == ((V4, REAL, 5000, 80), (V4, REAL, 5001, 80))
    assert key(*stage.from_host(packet(TCP, REAL, V4, (80, 5000)))) == (REAL, V4, 80, 5000)
    assert key(*stage.from_host(packet(TCP, REAL, V4, (80, 5001)))) == (str(PROXY), V4, 80, 5000)


def test_it_is_kept_apart_too_where_the_name_came_first() -> None:
    stage = Stage(DNS, LAN)
    stage.set_up(REAL)
    (named,) = stage.from_client(packet(TCP, V4, PROXY))
    (plain,) = stage.from_client(packet(TCP, V4, REAL))
    assert (key(named), key(plain)) == ((V4, REAL, 5000, 80), (V4, REAL, 5001, 80))
    assert key(*stage.from_host(packet(TCP, REAL, V4, (80, 5000)))) == (str(PROXY), V4, 80, 5000)
    assert key(*stage.from_host(packet(TCP, REAL, V4, (80, 5001)))) == (REAL, V4, 80, 5000)
