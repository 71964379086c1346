"""What the gateway keeps of a client, and how it judges flows to networks."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from connectivity.clock import SECOND
from connectivity.ip.flow import Flow
from connectivity.ip.icmp import IcmpError
from connectivity.portal.values import Interface
from connectivity.verdict import Drop, Forward
from gateway.filters import ALLOW_ALL, parse_filters
from gateway.peers import ClientPeer, Shared
from gateway.reasons import GatewayDrop
from gateway.resources import CidrResource, DnsResource, InternetResource

NOW = 1_000 * SECOND
OWN = Interface(IPv4Address("100.64.0.1"), IPv6Address("fd00:2021:1111::1"))
CLIENT = Interface(IPv4Address("100.64.0.2"), IPv6Address("fd00:2021:1111::2"))
HTTP = parse_filters([{"protocol": "tcp", "port_range_start": 80, "port_range_end": 80}])
HTTPS = parse_filters([{"protocol": "tcp", "port_range_start": 443, "port_range_end": 443}])
WEB = CidrResource("r-1", ip_network("10.0.0.0/24"), HTTP)
HOST = ip_address("10.0.0.9")
PROXY = ip_address("100.96.0.1")


def flow(source: str, destination: str, source_port: int = 1000, destination_port: int = 80, protocol: int = 6) -> Flow:
    addresses = ip_address(source), ip_address(destination)
    return Flow(addresses[0].version, protocol, *addresses, source_port, destination_port)


def error(source: str, destination: str, source_port: int, destination_port: int) -> IcmpError:
    """One about a TCP packet, as the kernel shows it to the tunnel."""
    about = (6, ip_address(source), ip_address(destination), source_port, destination_port)
    return IcmpError(3, 4, bytes(4), memoryview(b""), *about, 20)


def peer() -> ClientPeer:
    client = ClientPeer("c-1", CLIENT, Shared(), NOW)
    client.grant(WEB, 100, NOW)
    return client


def with_everything() -> ClientPeer:
    client = ClientPeer("c-1", CLIENT, Shared(), NOW)
    for network in ("0.0.0.0/0", "::/0"):
        client.grant(CidrResource(network, ip_network(network), ALLOW_ALL), None, NOW)
    return client


def source_for(address: str) -> str:
    return "fd00:2021:1111::2" if ":" in address else "100.64.0.2"


def to(client: ClientPeer, asked: Flow, *, is_echo: bool = False) -> GatewayDrop | None:
    """Why the client may not send this."""
    return reason(client.judge_outgoing(asked, OWN, NOW, is_echo=is_echo))


def back(client: ClientPeer, asked: Flow, *, is_echo: bool = False) -> GatewayDrop | None:
    """Why the client does not get this."""
    return reason(client.judge_incoming(asked, OWN, is_echo=is_echo))


def reason(verdict: Forward | Drop) -> GatewayDrop | None:
    return GatewayDrop(verdict.reason) if isinstance(verdict, Drop) else None


def test_flows_from_the_client_need_its_source_and_a_granted_destination() -> None:
    client = peer()
    assert to(client, flow("100.64.0.2", "10.0.0.9")) is None
    assert to(client, flow("100.64.0.2", "10.0.0.9", destination_port=81)) is GatewayDrop.FILTERED
    assert to(client, flow("100.64.0.2", "10.0.1.9")) is GatewayDrop.FILTERED
    assert to(client, flow("100.64.0.3", "10.0.0.9")) is GatewayDrop.SPOOFED


def test_answers_are_judged_by_their_source_port() -> None:
    client = peer()
    assert back(client, flow("10.0.0.9", "100.64.0.2", 80, 1000)) is None
    assert back(client, flow("10.0.0.9", "100.64.0.2", 81, 1000)) is GatewayDrop.FILTERED_REPLY


def test_verdicts_rest_on_the_client_and_on_every_grant_that_allows_them() -> None:
    client = peer()
    client.grant(CidrResource("r-2", ip_network("10.0.0.0/8"), HTTPS), None, NOW)
    verdict = client.judge_outgoing(flow("100.64.0.2", "10.0.0.9"), OWN, NOW, is_echo=False)
    tags = (client.tag, client.grant_tag("r-1"), client.grant_tag("r-2"))
    assert verdict == Forward("c-1", None, tags)
    assert client.judge_incoming(flow("10.0.0.9", "100.64.0.2", 80, 1000), OWN, is_echo=False) == verdict


def test_an_icmp_error_must_be_about_a_flow_that_the_client_may_have() -> None:
    client = peer()
    assert reason(client.judge_error(error("100.64.0.2", "10.0.0.9", 1000, 80), OWN)) is None
    refused = GatewayDrop.FILTERED_REPLY
    assert reason(client.judge_error(error("100.64.0.2", "10.0.0.9", 1000, 81), OWN)) is refused
    assert reason(client.judge_error(error("100.64.0.2", "10.9.9.9", 1000, 80), OWN)) is refused
    assert reason(client.judge_error(error("10.0.0.9", "100.64.0.2", 80, 1000), OWN)) is refused
    assert reason(client.judge_error(None, OWN)) is refused


@pytest.mark.parametrize(("own", "client_address"), [("100.64.0.1", "100.64.0.2"), (str(OWN.ipv6), str(CLIENT.ipv6))])
def test_the_gateway_itself_serves_echo_and_the_sites_dns(own: str, client_address: str) -> None:
    client = peer()
    client.grant(CidrResource("r-9", ip_network("0.0.0.0/0"), ALLOW_ALL), None, NOW)
    client.grant(CidrResource("r-6", ip_network("::/0"), ALLOW_ALL), None, NOW)
    client.grant(InternetResource("r-7", ALLOW_ALL), None, NOW)
    for protocol, port, is_echo, served in (
        (1, 7, True, True),
        (58, 7, True, True),
        (17, 53535, False, True),
        (6, 53535, False, True),
        (6, 22, False, False),
        (6, 8080, False, False),
        (17, 52625, False, False),
        (1, 0, False, False),  # a redirect, say
        (58, 0, False, False),
        (132, 53535, False, False),
    ):
        asked, answer = flow(client_address, own, 1, port, protocol), flow(own, client_address, port, 1, protocol)
        assert to(client, asked, is_echo=is_echo) is (None if served else GatewayDrop.FILTERED)
        assert back(client, answer, is_echo=is_echo) is (None if served else GatewayDrop.FILTERED_REPLY)


def test_authorizations_expire_are_extended_and_are_revoked() -> None:
    client = peer()
    assert client.expire(99 * SECOND, NOW) == []
    assert client.extend("r-1", 200)
    assert not client.extend("r-2", 200)
    assert client.expire(150 * SECOND, NOW) == []
    assert client.expire(200 * SECOND, NOW) == ["r-1"]
    assert client.is_empty
    assert not client.revoke("r-1", NOW)


def test_a_new_grant_of_the_same_resource_takes_over_its_expiry() -> None:
    client = peer()
    client.grant(WEB, None, NOW)
    assert client.expire(10**6 * SECOND, NOW) == []


def test_an_update_changes_filters_but_never_the_network_nor_the_kind() -> None:
    client = peer()
    assert client.update(CidrResource("r-1", ip_network("0.0.0.0/0"), ALLOW_ALL))
    assert to(client, flow("100.64.0.2", "10.0.0.9", destination_port=9)) is None
    assert to(client, flow("100.64.0.2", "10.0.1.9")) is GatewayDrop.FILTERED
    assert not client.update(DnsResource("r-1", "**", ALLOW_ALL))
    assert not client.update(CidrResource("r-2", ip_network("0.0.0.0/0"), ALLOW_ALL))
    assert client.resource("r-1") == CidrResource("r-1", ip_network("10.0.0.0/24"), ALLOW_ALL)


def test_the_internet_has_no_private_addresses_and_its_filters_hold() -> None:
    client = ClientPeer("c-1", CLIENT, Shared(), NOW)
    client.grant(InternetResource("r-1", ALLOW_ALL), None, NOW)
    for address in ("8.8.8.8", "2001:db8::1"):
        source = source_for(address)
        assert to(client, flow(source, address, protocol=47, source_port=0, destination_port=0)) is None
        assert back(client, flow(address, source)) is None
    for address in ("10.0.0.9", "192.168.1.1", "100.64.0.3", "100.96.0.1", "100.100.111.1", "169.254.169.254"):
        assert to(client, flow("100.64.0.2", address)) is GatewayDrop.FILTERED
        assert back(client, flow(address, "100.64.0.2")) is GatewayDrop.FILTERED_REPLY
    for address in ("fd12::1", "::ffff:8.8.8.8", "fe80::1", "fd00:2021:1111:8000::1"):
        assert to(client, flow("fd00:2021:1111::2", address)) is GatewayDrop.FILTERED
    client.grant(InternetResource("r-1", HTTP), None, NOW)
    assert to(client, flow("100.64.0.2", "8.8.8.8")) is None
    assert to(client, flow("100.64.0.2", "8.8.8.8", destination_port=81)) is GatewayDrop.FILTERED


@pytest.mark.parametrize(
    "address",
    [
        "100.64.0.9", "100.96.0.1", "169.254.169.254", "169.254.1.1", "168.63.129.16", "127.0.0.1", "224.0.0.22",
        "255.255.255.255", "fd00:2021:1111::9", "fd00:2021:1111:8000::1", "fd00:ec2::254", "fe80::1", "ff02::2", "::1",
        "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
    ],
)  # fmt: skip
def test_everything_means_no_peer_nothing_local_and_no_metadata_unless_named(address: str) -> None:
    client = with_everything()
    asked = flow(source_for(address), address)
    assert to(client, asked) is GatewayDrop.FILTERED
    client.grant(CidrResource("r-1", ip_network(address), HTTP), None, NOW)
    stands_for_a_name = address in {"100.96.0.1", "fd00:2021:1111:8000::1"}  # no network can name those
    assert to(client, asked) is (GatewayDrop.FILTERED if stands_for_a_name else None)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "10.0.0.1", "100.63.255.255", "100.128.0.0", "2001:db8::1", "fd00::1", "64:ff9b::808:808"],
)
def test_what_is_global_or_private_is_in_everything(address: str) -> None:
    assert to(with_everything(), flow(source_for(address), address)) is None


def test_an_address_may_what_any_network_around_it_allows() -> None:
    client = ClientPeer("c-1", CLIENT, Shared(), NOW)
    client.grant(CidrResource("r-1", ip_network("10.0.0.0/8"), HTTPS), None, NOW)
    client.grant(CidrResource("r-2", ip_network("10.1.0.0/16"), HTTP), None, NOW)
    for address, port, allowed in (
        ("10.1.2.3", 80, True),
        ("10.1.2.3", 443, True),
        ("10.2.2.3", 80, False),
        ("10.2.2.3", 443, True),
        ("192.0.2.1", 443, False),
    ):
        verdict = to(client, flow("100.64.0.2", address, destination_port=port))
        assert verdict is (None if allowed else GatewayDrop.FILTERED)


def test_rules_of_networks_and_of_names_do_not_mix() -> None:
    client = peer()  # TCP port 80 of the network
    client.grant(DnsResource("r-2", "*.internal", HTTPS), None, NOW)
    client.assign("r-2", "app.internal", [PROXY], [HOST])
    for port, allowed in ((443, True), (80, False)):
        named = to(client, flow("100.64.0.2", "100.96.0.1", destination_port=port))
        assert named is (None if allowed else GatewayDrop.FILTERED)
        plain = to(client, flow("100.64.0.2", "10.0.0.9", destination_port=port))
        assert plain is (GatewayDrop.FILTERED if allowed else None)


def test_a_host_that_is_granted_by_itself_and_by_name_has_the_filters_of_both() -> None:
    client = ClientPeer("c-1", CLIENT, Shared(), NOW)
    client.grant(CidrResource("r-1", ip_network("10.0.0.9/32"), HTTP), None, NOW)
    client.grant(DnsResource("r-2", "*.internal", HTTPS), None, NOW)
    secure = flow("100.64.0.2", "10.0.0.9", destination_port=443)
    assert to(client, secure) is GatewayDrop.FILTERED
    client.assign("r-2", "app.internal", [PROXY], [HOST])
    assert to(client, secure) is None
    assert to(client, flow("100.64.0.2", "100.96.0.1", destination_port=80)) is GatewayDrop.FILTERED
    client.revoke("r-1", NOW)
    assert to(client, secure) is GatewayDrop.FILTERED


def test_protocols_without_ports_pass_both_ways_where_everything_may() -> None:
    client = ClientPeer("c-1", CLIENT, Shared(), NOW)
    client.grant(CidrResource("r-1", ip_network("10.0.0.0/24"), ALLOW_ALL), None, NOW)
    for protocol in (47, 50, 132):
        assert to(client, flow("100.64.0.2", "10.0.0.9", 0, 0, protocol)) is None
        assert back(client, flow("10.0.0.9", "100.64.0.2", 0, 0, protocol)) is None
