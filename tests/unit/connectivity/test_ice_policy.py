"""What a peer may have us check, and what is counted and told instead."""

import logging
from random import Random

import pytest

from connectivity.endpoint import Endpoint
from connectivity.ice import Candidate, IceCredentials
from connectivity.ice.agent import Agent
from connectivity.ice.policy import CandidateRefusal, refusal

OURS = Candidate.host(Endpoint.parse("192.168.1.5:52625"))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:22", CandidateRefusal.LOOPBACK),
        ("127.8.9.1:52625", CandidateRefusal.LOOPBACK),
        ("[::1]:8080", CandidateRefusal.LOOPBACK),
        ("169.254.169.254:80", CandidateRefusal.LINK_LOCAL),
        ("[fe80::1]:52625", CandidateRefusal.LINK_LOCAL),
        ("0.0.0.0:52625", CandidateRefusal.UNSPECIFIED),
        ("[::]:52625", CandidateRefusal.UNSPECIFIED),
        ("224.0.0.251:5353", CandidateRefusal.MULTICAST),
        ("255.255.255.255:67", CandidateRefusal.MULTICAST),
        ("[ff02::1]:5353", CandidateRefusal.MULTICAST),
        ("240.0.0.1:1", CandidateRefusal.RESERVED),
        ("198.18.0.1:52625", CandidateRefusal.RESERVED),
        ("[fec0::1]:52625", CandidateRefusal.RESERVED),
        ("192.0.0.192:80", CandidateRefusal.RESERVED),
        ("168.63.129.16:80", CandidateRefusal.METADATA),
        ("100.100.100.200:80", CandidateRefusal.METADATA),
        ("[fd00:ec2::254]:80", CandidateRefusal.METADATA),
        ("[fd00:ec2::23]:80", CandidateRefusal.METADATA),
        ("100.64.0.1:52625", CandidateRefusal.TUNNEL),
        ("[fd00:2021:1111::1]:52625", CandidateRefusal.TUNNEL),
        ("[64:ff9b::7f00:1]:22", CandidateRefusal.DISGUISED),
        ("[::ffff:127.0.0.1]:22", CandidateRefusal.DISGUISED),
        ("[::7f00:1]:22", CandidateRefusal.DISGUISED),
        ("[2002:7f00:1::]:22", CandidateRefusal.DISGUISED),
        ("[2002:a9fe:a9fe::]:80", CandidateRefusal.DISGUISED),
        ("[fd12::5efe:7f00:1]:80", CandidateRefusal.DISGUISED),
        ("192.168.1.5:22", CandidateRefusal.OWN),
        ("203.0.113.9:0", CandidateRefusal.PORT_ZERO),
        # Where peers are.
        ("192.168.1.6:52625", None),
        ("10.0.0.5:52625", None),
        ("172.16.9.9:52625", None),
        ("100.96.0.1:52625", None),
        ("203.0.113.9:1", None),
        ("8.8.8.8:52625", None),
        ("[fd12:3456::1]:52625", None),
        ("[2001:db8::1]:52625", None),
        ("[2606:4700::1111]:52625", None),
        ("[2002:808:808::1]:52625", None),
        ("[64:ff9b::808:808]:52625", None),
    ],
)
def test_where_a_peer_may_have_us_send(address: str, reason: CandidateRefusal | None) -> None:
    host, _, port = address.rpartition(":")
    endpoint = Endpoint(Endpoint.parse(f"{host}:1").ip, int(port))
    assert refusal(endpoint, [OURS]) is reason


def test_link_local_counts_among_neighbours() -> None:
    neighbour = Candidate.host(Endpoint.parse("[fe80::5]:52625"))
    assert refusal(Endpoint.parse("[fe80::1]:52625"), [neighbour]) is None
    assert refusal(Endpoint.parse("169.254.1.1:52625"), [neighbour]) is CandidateRefusal.LINK_LOCAL


def test_of_a_relay_and_a_nat_only_the_very_same_address_is_ours() -> None:
    relayed = Candidate.relayed(Endpoint.parse("198.51.100.1:50000"), OURS.address)
    assert refusal(Endpoint.parse("198.51.100.1:50001"), [OURS, relayed]) is None
    assert refusal(Endpoint.parse("198.51.100.1:50000"), [OURS, relayed]) is CandidateRefusal.OWN


def make_agent(*, controlling: bool) -> Agent:
    ours, theirs = IceCredentials("usr1", "p" * 22), IceCredentials("usr2", "q" * 22)
    agent = Agent(
        controlling=controlling, local=ours, remote=theirs, rng=Random(1).randbytes, now=0, owner={"cid": "c-1"}
    )
    agent.add_local_candidate(OURS)
    return agent


@pytest.mark.parametrize("controlling", [True, False])
def test_neither_role_checks_them_and_the_first_is_told(controlling: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    agent = make_agent(controlling=controlling)
    for port in range(1, 40):
        assert not agent.add_remote_candidate(Candidate.host(Endpoint.parse(f"127.0.0.1:{port}")), 0)
    assert not agent.add_remote_candidate(Candidate.host(Endpoint.parse("192.168.1.5:22")), 0)
    assert agent.add_remote_candidate(Candidate.host(Endpoint.parse("10.0.0.5:52625")), 0)
    agent.handle_timeout(0)
    sent = []
    while (transmit := agent.poll_transmit()) is not None:
        sent.append(str(transmit.destination))
    assert sent == ["10.0.0.5:52625"]
    assert agent.refused == {CandidateRefusal.LOOPBACK: 39, CandidateRefusal.OWN: 1}
    (line,) = caplog.records
    assert line.message == "Not checking a candidate of the peer"
    assert line.__dict__["fields"]["cid"] == "c-1"


def test_a_check_from_such_an_address_begins_no_checks_there() -> None:
    agent = make_agent(controlling=False)
    assert agent._discover(Endpoint.parse("127.0.0.1:9"), 1) is None
    assert agent._discover(Endpoint.parse("10.0.0.5:9"), 1) is not None
    assert agent._discover(Endpoint.parse("192.168.1.5:9"), 1) is not None  # it arrived: a neighbour behind our address
    assert agent.refused == {CandidateRefusal.LOOPBACK: 1}
