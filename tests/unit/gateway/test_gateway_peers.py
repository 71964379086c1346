"""What the gateway keeps of a client, and how it judges flows."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from connectivity.clock import SECOND
from connectivity.ip.flow import Flow
from connectivity.ip.icmp import IcmpError
from connectivity.portal.values import Interface, MessageError
from gateway.filters import ALLOW_ALL, parse_filters
from gateway.peers import ClientPeer, Judgement, Resource, parse_resource

OWN = Interface(IPv4Address("100.64.0.1"), IPv6Address("fd00:2021:1111::1"))
CLIENT = Interface(IPv4Address("100.64.0.2"), IPv6Address("fd00:2021:1111::2"))
WEB = Resource(
    "r-1", ip_network("10.0.0.0/24"), parse_filters([{"protocol": "tcp", "port_range_start": 80, "port_range_end": 80}])
)


def flow(source: str, destination: str, source_port: int = 1000, destination_port: int = 80, protocol: int = 6) -> Flow:
    return Flow(4, protocol, ip_address(source), ip_address(destination), source_port, destination_port)


def error(source: str, destination: str, source_port: int, destination_port: int) -> IcmpError:
    """One about a TCP packet, as the kernel shows it to the tunnel."""
    about = (6, ip_address(source), ip_address(destination), source_port, destination_port)
    return IcmpError(3, 4, bytes(4), memoryview(b""), *about, 20)


def peer() -> ClientPeer:
    client = ClientPeer("c-1", CLIENT)
    client.grant(WEB, expires_at=100)
    return client


def test_flows_from_the_client_need_its_source_and_a_granted_destination() -> None:
    client = peer()
    assert client.judge_outgoing(flow("100.64.0.2", "10.0.0.9"), OWN, is_echo=False) is Judgement.PASS
    closed = flow("100.64.0.2", "10.0.0.9", destination_port=81)
    assert client.judge_outgoing(closed, OWN, is_echo=False) is Judgement.FILTERED
    assert client.judge_outgoing(flow("100.64.0.2", "10.0.1.9"), OWN, is_echo=False) is Judgement.FILTERED
    assert client.judge_outgoing(flow("100.64.0.3", "10.0.0.9"), OWN, is_echo=False) is Judgement.SPOOFED


def test_answers_are_judged_by_their_source_port() -> None:
    client = peer()
    assert client.judge_incoming(flow("10.0.0.9", "100.64.0.2", 80, 1000), OWN, is_echo=False) is Judgement.PASS
    assert client.judge_incoming(flow("10.0.0.9", "100.64.0.2", 81, 1000), OWN, is_echo=False) is Judgement.FILTERED


def test_an_icmp_error_must_be_about_a_flow_that_the_client_may_have() -> None:
    client = peer()
    assert client.judge_error(error("100.64.0.2", "10.0.0.9", 1000, 80), OWN) is Judgement.PASS
    assert client.judge_error(error("100.64.0.2", "10.0.0.9", 1000, 81), OWN) is Judgement.FILTERED
    assert client.judge_error(error("100.64.0.2", "10.9.9.9", 1000, 80), OWN) is Judgement.FILTERED
    assert client.judge_error(error("10.0.0.9", "100.64.0.2", 80, 1000), OWN) is Judgement.SPOOFED
    assert client.judge_error(None, OWN) is Judgement.FILTERED


@pytest.mark.parametrize(("own", "client_address"), [("100.64.0.1", "100.64.0.2"), (str(OWN.ipv6), str(CLIENT.ipv6))])
def test_the_gateway_itself_serves_echo_and_the_sites_dns(own: str, client_address: str) -> None:
    client = peer()
    client.grant(Resource("r-9", ip_network("0.0.0.0/0"), ALLOW_ALL), None)
    client.grant(Resource("r-6", ip_network("::/0"), ALLOW_ALL), None)
    for protocol, port, is_echo, verdict in (
        (1, 7, True, Judgement.PASS),
        (58, 7, True, Judgement.PASS),
        (17, 53535, False, Judgement.PASS),
        (6, 53535, False, Judgement.PASS),
        (6, 22, False, Judgement.FILTERED),
        (6, 8080, False, Judgement.FILTERED),
        (17, 52625, False, Judgement.FILTERED),
        (1, 0, False, Judgement.FILTERED),  # a redirect, say
        (58, 0, False, Judgement.FILTERED),
        (132, 53535, False, Judgement.FILTERED),
    ):
        to, back = flow(client_address, own, 1, port, protocol), flow(own, client_address, port, 1, protocol)
        assert client.judge_outgoing(to, OWN, is_echo=is_echo) is verdict
        assert client.judge_incoming(back, OWN, is_echo=is_echo) is verdict


def test_authorizations_expire_are_extended_and_are_revoked() -> None:
    client = peer()
    assert client.expire(99 * SECOND) == []
    assert client.extend("r-1", 200)
    assert not client.extend("r-2", 200)
    assert client.expire(150 * SECOND) == []
    assert client.expire(200 * SECOND) == ["r-1"]
    assert client.is_empty
    assert not client.revoke("r-1")


def test_a_new_grant_of_the_same_resource_takes_over_its_expiry() -> None:
    client = peer()
    client.grant(WEB, expires_at=None)
    assert client.expire(10**6 * SECOND) == []


def test_an_update_changes_filters_but_never_the_network() -> None:
    client = peer()
    assert client.update(Resource("r-1", ip_network("0.0.0.0/0"), ALLOW_ALL))
    assert (
        client.judge_outgoing(flow("100.64.0.2", "10.0.0.9", destination_port=9), OWN, is_echo=False) is Judgement.PASS
    )
    assert client.judge_outgoing(flow("100.64.0.2", "10.0.1.9"), OWN, is_echo=False) is Judgement.FILTERED


def test_only_cidr_resources_are_served_and_host_bits_are_refused() -> None:
    good = {"type": "cidr", "id": "r", "name": "n", "address": "10.0.0.0/24", "filters": []}
    assert parse_resource(good).network == ip_network("10.0.0.0/24")
    for change in ({"type": "dns"}, {"address": "10.0.0.1/24"}, {"filters": None}):
        with pytest.raises(MessageError):
            parse_resource(good | change)
