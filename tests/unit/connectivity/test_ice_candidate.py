"""Candidate text, priorities and validity (RFC 8445 §5.1, RFC 8839 §5.1)."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from connectivity.endpoint import Endpoint
from connectivity.ice import Candidate, CandidateKind, IceCredentials, is_valid_address, parse, signalling_order
from connectivity.ice.candidate import peer_reflexive, peer_reflexive_priority

V4 = Endpoint.parse("192.0.2.7:52625")
V6 = Endpoint.parse("[2001:db8::7]:52625")
BASE4 = Endpoint.parse("10.0.0.2:52625")
BASE6 = Endpoint.parse("[fd00::2]:52625")


@pytest.mark.parametrize(
    ("candidate", "known_count", "priority"),
    [
        (Candidate.host(V6), 0, 2130706431),
        (Candidate.host(V4), 0, 2130706175),
        (Candidate.host(V6), 1, 2130705919),
        (Candidate.host(V4), 1, 2130705663),
        (Candidate.relayed(V6, BASE6), 0, 37748735),
        (Candidate.relayed(V4, BASE4), 0, 37748479),
        (Candidate.relayed(V6, BASE4), 0, 37492735),
        (Candidate.relayed(V4, BASE6), 0, 37492479),
        (Candidate.relayed(V4, BASE4), 1, 37747967),
    ],
)
def test_the_agent_numbers_candidates_by_kind_family_and_those_before(
    candidate: Candidate, known_count: int, priority: int
) -> None:
    numbered = candidate.numbered(known_count, "abcd")
    assert numbered.priority == priority
    assert numbered.ufrag == "abcd"
    assert numbered.foundation.startswith(priority.to_bytes(4, "little").hex())


@pytest.mark.parametrize(
    ("candidate", "priority"),
    [
        (Candidate.server_reflexive(V6, BASE6), 1694498815),
        (Candidate.server_reflexive(V4, BASE4), 1694498559),
        (Candidate.host(V6), 2130706431),
        (Candidate.host(V4), 2130706175),
    ],
)
def test_a_candidate_outside_the_agent_has_the_first_preference_of_its_family(
    candidate: Candidate, priority: int
) -> None:
    assert candidate.priority == priority


def test_the_preference_never_falls_below_zero() -> None:
    assert Candidate.relayed(V4, BASE6).numbered(100_000, "abcd").priority == 2 << 24 | 255


@pytest.mark.parametrize(("endpoint", "priority"), [(V6, 1862270975), (V4, 1862270719)])
def test_checks_announce_the_priority_of_a_peer_reflexive_candidate(endpoint: Endpoint, priority: int) -> None:
    assert peer_reflexive_priority(Candidate.host(endpoint).numbered(0, "abcd")) == priority


def test_a_host_candidate_as_text() -> None:
    text = Candidate.host(V4).numbered(0, "abcd").to_text()
    foundation, rest = text.split(" ", 1)
    assert foundation.startswith("candidate:fffeff7e")
    assert len(foundation) == len("candidate:") + 8 + 16
    assert rest == "1 udp 2130706175 192.0.2.7 52625 typ host ufrag abcd"


def test_a_server_reflexive_candidate_hides_its_base() -> None:
    text = Candidate.server_reflexive(V4, BASE4).to_text()
    assert text.startswith("candidate:fffeff64")
    assert text.endswith(" 1 udp 1694498559 192.0.2.7 52625 typ srflx raddr 0.0.0.0 rport 0")
    assert Candidate.server_reflexive(V6, BASE6).to_text().endswith(" typ srflx raddr :: rport 0")


def test_a_relayed_candidate_hides_its_interface() -> None:
    text = Candidate.relayed(V6, BASE6).numbered(0, "abcd").to_text()
    assert text.startswith("candidate:ffff3f02")
    assert text.endswith(" 1 udp 37748735 2001:db8::7 52625 typ relay raddr :: rport 0 ufrag abcd")


def test_sorted_text_runs_from_relay_to_host() -> None:
    best_first = [Candidate.host(V4), Candidate.server_reflexive(V4, BASE4), Candidate.relayed(V4, BASE4)]
    assert sorted(candidate.to_text() for candidate in best_first) == [
        candidate.to_text() for candidate in reversed(best_first)
    ]


def test_the_foundation_depends_on_base_and_not_on_the_port() -> None:
    other_port = Endpoint(V4.ip, 1)
    assert Candidate.host(V4).foundation == Candidate.host(other_port).foundation
    assert Candidate.host(V4).foundation != Candidate.host(BASE4).foundation


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate.host(V4).numbered(3, "abcd"),
        Candidate.host(V6),
        Candidate.relayed(V4, BASE6).numbered(0, "abcd"),
        peer_reflexive(V4, V4, 1862270719),
    ],
)
def test_text_reads_back(candidate: Candidate) -> None:
    assert parse(candidate.to_text()) == candidate


def test_a_parsed_candidate_has_its_own_address_as_base() -> None:
    parsed = parse(Candidate.server_reflexive(V4, BASE4).to_text())
    assert parsed.base == V4
    assert parsed.related == Endpoint(ip_address("0.0.0.0"), 0)


def test_an_example_of_the_portal_protocol() -> None:
    text = "candidate:fffeff6412ab34cd 1 udp 1694498559 203.0.113.24 52625 typ srflx raddr 0.0.0.0 rport 0"
    parsed = parse(text)
    assert parsed.kind is CandidateKind.SRFLX
    assert parsed.address == Endpoint.parse("203.0.113.24:52625")
    assert parsed.foundation == "fffeff6412ab34cd"
    assert parsed.ufrag is None
    assert parsed.to_text() == text


def test_optional_tails_are_read_in_their_order_and_extensions_ignored() -> None:
    parsed = parse(
        "candidate:1 2 UDP 7 192.0.2.1 9 typ relay tcptype passive raddr 10.0.0.1 rport 8"
        " generation 0 network-id 3 ufrag abcd network-cost 50 colour blue"
    )
    assert (parsed.component, parsed.priority, parsed.ufrag) == (2, 7, "abcd")
    assert parsed.related == Endpoint.parse("10.0.0.1:8")


def test_a_tail_out_of_order_is_an_extension() -> None:
    assert parse("candidate:1 1 udp 7 192.0.2.1 9 typ host network-cost 50 ufrag abcd").ufrag is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a=candidate:1 1 udp 7 192.0.2.1 9 typ host",
        "candidate:1 1 tcp 7 192.0.2.1 9 typ host",
        "candidate:1 1 tls 7 192.0.2.1 9 typ host",
        "candidate:1 1 sctp 7 192.0.2.1 9 typ host",
        "candidate:1  1 udp 7 192.0.2.1 9 typ host",
        "candidate:1 1 udp 7 192.0.2.1 9 typ host\n",
        "candidate:1 1 udp 7 192.0.2.1 9 typ home",
        "candidate:1 1 udp 7 192.0.2.1 9",
        "candidate:1 1 udp 7 example.com 9 typ host",
        "candidate:1 1 udp 7 fe80::1%eth0 9 typ host",
        "candidate:1 1 udp 4294967296 192.0.2.1 9 typ host",
        "candidate:1 65536 udp 7 192.0.2.1 9 typ host",
        "candidate:1 1 udp 7 192.0.2.1 65536 typ host",
        "candidate:1 1 udp 7 192.0.2.1 0 typ host",
        "candidate:1 1 udp 7 192.0.2.999 9 typ host",
        "candidate:1 1 udp -7 192.0.2.1 9 typ host",
        "candidate:1 1 udp \u0667 192.0.2.1 9 typ host",
        "candidate:1 1 udp 7 224.0.0.1 9 typ host",
        "candidate:1 1 udp 7 ::ffff:192.0.2.1 9 typ host",
        "candidate:1 1 udp 7 192.0.2.1 9 typ host raddr 192.0.2.1 rport 65536",
        "candidate: 1 udp 7 192.0.2.1 9 typ host",
    ],
)
def test_what_is_not_a_candidate_does_not_parse(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize("ip", ["127.0.0.1", "10.0.0.1", "100.64.0.1", "fe80::1", "::1", "fd00::1", "2001:db8::1"])
def test_unicast_addresses_are_valid(ip: str) -> None:
    assert is_valid_address(Endpoint(ip_address(ip), 1))


@pytest.mark.parametrize(
    "ip", ["0.0.0.0", "255.255.255.255", "169.254.1.1", "224.0.0.251", "::", "ff02::1", "::ffff:10.0.0.1"]
)
def test_addresses_nobody_can_be_reached_at_are_not_valid(ip: str) -> None:
    endpoint = Endpoint(ip_address(ip), 1)
    assert not is_valid_address(endpoint)
    with pytest.raises(ValueError, match="cannot be the address"):
        Candidate.host(endpoint)
    with pytest.raises(ValueError, match="cannot be the address"):
        Candidate.relayed(endpoint, BASE4)


def test_a_server_reflexive_candidate_has_the_family_of_its_base() -> None:
    with pytest.raises(ValueError, match="differ in family"):
        Candidate.server_reflexive(V4, BASE6)


def test_equal_priorities_are_all_signalled_in_a_fixed_order() -> None:
    first = Candidate.server_reflexive(Endpoint(V4.ip, 1), BASE4)
    second = Candidate.server_reflexive(Endpoint(V4.ip, 2), BASE4)
    host = Candidate.host(BASE4)
    assert first.priority == second.priority
    assert signalling_order([second, first, host]) == [host, first, second]
    assert signalling_order([first, host, second]) == [host, first, second]


def test_the_interface_of_a_relayed_candidate_is_not_part_of_its_identity() -> None:
    relayed = Candidate.relayed(V4, BASE4)
    assert relayed == replace(relayed, local_interface=BASE6)


def test_the_password_stays_out_of_repr() -> None:
    credentials = IceCredentials("abcd", "very secret")
    assert "very secret" not in repr(credentials)
    assert "abcd" in repr(credentials)
