"""Which chains are found to keep out what a relay has to be sent, on listings as ``nft -j`` writes them."""

from typing import Any, Final

import pytest

from postern.doctor.incoming import Opening, judge
from tests.unit.gateway.test_gateway_firewall import ACCEPT, DROP, address, meta, state, table

WANTED: Final = (Opening("udp", 3478, 3478), Opening("udp", 49152, 65535), Opening("tcp", 3478, 3478))


def port(protocol: str, right: Any) -> dict[str, Any]:
    return {"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": "dport"}}, "right": right}}


def chain(*rules: list[Any], **options: Any) -> list[dict[str, Any]]:
    return table(*rules, **{"family": "inet", "name": "input", "hook": "input"} | options)


def told(objects: list[dict[str, Any]], families: tuple[str, ...] = ("ipv4",)) -> list[str]:
    return [finding.what.partition(" drops ")[2] for finding in judge(objects, WANTED, families, ["eth0", "eth1"])]


BY_FIREWALLD: Final = "--add-port=3478/udp --add-port=49152-65535/udp --add-port=3478/tcp"
USUAL: Final = [
    [meta("iifname", "lo"), ACCEPT],
    [state("established", "related"), ACCEPT],
    [meta("l4proto", {"set": ["icmp", "ipv6-icmp"]}), ACCEPT],
    [port("tcp", 22), {"counter": {}}, ACCEPT],
]
ALL: Final = "UDP 3478, UDP 49152-65535, TCP 3478"


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        (chain(policy="accept"), []),
        (chain(), [ALL]),
        (chain(*USUAL), [ALL]),
        (chain(*USUAL, [port("udp", 3478), ACCEPT]), ["UDP 49152-65535, TCP 3478"]),
        (chain(*USUAL, [port("udp", {"set": [3478, {"range": [49152, 65535]}]}), ACCEPT]), ["TCP 3478"]),
        (chain(*USUAL, [port("udp", {"range": [3478, 65000]}), ACCEPT]), ["UDP 49152-65535, TCP 3478"]),
        (chain(*USUAL, [port("th", {"range": [1024, 65535]}), ACCEPT]), []),
        (chain(*USUAL, [meta("l4proto", {"set": [6, 17]}), ACCEPT]), []),
        (chain(*USUAL, [meta("iifname", "eth1"), ACCEPT]), []),  # somebody may come by that
        (chain(*USUAL, [address("saddr", "192.0.2.1"), ACCEPT]), []),  # whoever that is
        (chain(*USUAL, [address("saddr", "2001:db8::1", "ip6"), ACCEPT]), [ALL]),
        (chain(*USUAL, [port("udp", "@allowed"), ACCEPT]), ["TCP 3478"]),
        (chain(*USUAL, [{"xt": None}, ACCEPT]), []),
        (chain([port("udp", 3478), {"limit": {"rate": 9, "per": "second", "inv": True}}, DROP], policy="accept"), []),
        (chain([port("udp", 3478), DROP], policy="accept"), ["UDP 3478"]),
        (chain([meta("nfproto", "ipv6"), DROP], policy="accept"), []),  # nobody is told of an IPv6 address
        (chain(hook="output"), []),
    ],
)
def test_only_a_certain_loss_is_told(objects: list[dict[str, Any]], expected: list[str]) -> None:
    assert told(objects) == expected


def test_of_a_family_that_is_served_alone() -> None:
    objects = chain([meta("nfproto", "ipv6"), DROP], policy="accept")
    assert told(objects, ("ipv4", "ipv6")) == [ALL]
    assert told(chain(family="ip6", name="INPUT")) == []


@pytest.mark.parametrize(
    ("objects", "remedy"),
    [
        (
            chain(),
            "; ".join(
                f"nft insert rule inet filter input {ports} accept"
                for ports in ("udp dport '{ 3478, 49152-65535 }'", "tcp dport '{ 3478 }'")
            ),
        ),
        (
            chain(family="ip", name="INPUT"),
            "; ".join(
                f"iptables -I INPUT -p {ports} -j ACCEPT"
                for ports in ("udp --dport 3478", "udp --dport 49152:65535", "tcp --dport 3478")
            ),
        ),
        (chain(chains={"ufw-user-input": []}), "ufw allow 3478/udp; ufw allow 49152:65535/udp; ufw allow 3478/tcp"),
        (
            chain(table="firewalld"),
            f"firewall-cmd --permanent {BY_FIREWALLD}; firewall-cmd --reload",
        ),
    ],
)
def test_the_remedy_is_that_of_whoever_made_the_table(objects: list[dict[str, Any]], remedy: str) -> None:
    (finding,) = judge(objects, WANTED, ("ipv4",), ["eth0"])
    assert finding.remedy == remedy
    assert finding.hinders
