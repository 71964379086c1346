"""Which tables of others are found to drop the tunnel's traffic, on listings as ``nft -j`` writes them."""

from typing import Any

import pytest

from connectivity.io import nftables
from gateway import firewall
from gateway.firewall import examine, judge, legacy_drops

ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}


def meta(key: str, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": right}}


def state(*right: str) -> dict[str, Any]:
    return {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": list(right)}}


def address(field: str, right: Any, protocol: str = "ip") -> dict[str, Any]:
    return {"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}}


def table(*rules: list[Any], policy: str = "drop", **options: Any) -> list[dict[str, Any]]:
    """A table with a base chain, and its rules; ``chains`` holds others by name."""
    family, name = options.get("family", "ip"), options.get("name", "FORWARD")
    base = {"family": family, "table": options.get("table", "filter"), "type": "filter", "policy": policy}
    objects = [{"chain": base | {"name": name, "hook": options.get("hook", "forward"), "prio": 0}}]
    objects += [{"rule": {"chain": name, "expr": expressions}} for expressions in rules]
    for other, others in options.get("chains", {}).items():
        objects.append({"chain": {"family": family, "table": base["table"], "name": other}})
        objects += [{"rule": {"chain": other, "expr": expressions}} for expressions in others]
    return objects


def dropped(objects: list[dict[str, Any]]) -> bool:
    return bool(judge(objects, "tun0", ["eth0", "docker0"]))


IN, OUT = [meta("iifname", "tun0"), {"counter": {}}, ACCEPT], [meta("oifname", "tun*"), ACCEPT]
ANSWERS = [state("established", "related"), ACCEPT]
DOCKER = [
    [{"jump": {"target": "DOCKER-USER"}}],
    [meta("oifname", "docker0"), {"xt": None}, ACCEPT],
    [meta("iifname", "docker0"), meta("oifname", "docker0", "!="), ACCEPT],
]


@pytest.mark.parametrize(
    ("objects", "is_dropped"),
    [
        (table(policy="accept"), False),
        (table(), True),
        (table(IN), True),  # the way back is missing
        (table(IN, OUT), False),
        (table(IN, ANSWERS), False),
        (table(ANSWERS), True),
        (table(OUT), True),
        (table(IN, [{"xt": None}, ACCEPT]), False),  # -m conntrack --ctstate ESTABLISHED, perhaps
        (table([{"xt": None}, ACCEPT]), True),
        (table(*DOCKER, chains={"DOCKER-USER": [[{"counter": {}}, {"return": None}]]}), True),
        (table(*DOCKER, chains={"DOCKER-USER": [IN, OUT]}), False),
        (table([meta("iifname", "tun0"), meta("oifname", "eth0"), ACCEPT], OUT), False),
        (table([meta("iifname", {"set": ["eth0", "tun0"]}), ACCEPT], OUT), False),
        (table([address("saddr", {"prefix": {"addr": "100.64.0.0", "len": 10}}), ACCEPT], ANSWERS), False),
        (table([address("saddr", {"prefix": {"addr": "10.0.0.0", "len": 8}}), ACCEPT], ANSWERS), True),
        (table([{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["established", ACCEPT]]}}}], IN), False),
        (table(ANSWERS, [{"reject": {"type": "icmpx"}}], policy="accept", family="inet"), True),
        (table([meta("nfproto", "ipv6"), DROP], policy="accept", family="inet"), True),
        (table([meta("iifname", "eth7"), DROP], policy="accept"), False),
        (table(hook="input", name="INPUT"), True),
        (table([{"xt": None}, ACCEPT], hook="input", name="INPUT"), False),
        (table(hook="output"), False),
        (table([{"limit": {"rate": 9}}, DROP], policy="accept"), False),  # what is over a rate
        (table([{"xt": {"name": "addrtype"}}, {"return": None}], [DROP], hook="input", policy="accept"), False),
        (table([{"xt": {"name": "conntrack"}}, ACCEPT], hook="input"), True),  # of what is open already, by iptables
    ],
)  # fmt: skip
def test_only_a_certain_loss_is_told(objects: list[dict[str, Any]], is_dropped: bool) -> None:
    assert dropped(objects) is is_dropped


@pytest.mark.parametrize(
    ("objects", "remedy"),
    [
        (table(), "iptables -I FORWARD -i tun0 -j ACCEPT; iptables -I FORWARD -o tun0 -j ACCEPT"),
        (table(family="ip6"), "ip6tables -I FORWARD -i tun0 -j ACCEPT; ip6tables -I FORWARD -o tun0 -j ACCEPT"),
        (
            table(chains={"DOCKER-USER": []}),
            "iptables -I DOCKER-USER -i tun0 -j ACCEPT; iptables -I DOCKER-USER -o tun0 -j ACCEPT",
        ),
        (table(chains={"ufw-before-forward": []}), "ufw route allow in on tun0; ufw route allow out on tun0"),
        (
            table(family="inet", table="firewalld", name="filter_FORWARD"),
            "firewall-cmd --zone=trusted --add-interface=tun0 (and once more with --permanent)",
        ),
        (
            table(family="inet", name="onward"),
            "; ".join(f"nft insert rule inet filter onward {way}ifname tun0 accept" for way in "io"),
        ),
        (table(hook="input", name="INPUT"), "iptables -I INPUT -i tun0 -j ACCEPT"),
    ],
)
def test_table_chain_and_rule_are_named(objects: list[dict[str, Any]], remedy: str) -> None:
    (finding,) = judge(objects, "tun0", ["eth0"])
    chain = objects[0]["chain"]
    assert finding.fields() == {
        "hook": chain["hook"],
        "table": f"{chain['family']} {chain['table']}",
        "chain": chain["name"],
        "remedy": remedy,
    }


@pytest.mark.parametrize("statement", [{}, "notrack", {"match": {"left": {"meta": {}}, "right": 1}}, {"jump": None}])
def test_what_cannot_be_followed_is_no_finding_and_no_end(statement: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables, "listing", lambda *_: table([statement]))
    monkeypatch.setattr(firewall, "_LEGACY", {})
    assert examine("tun0") == []


def test_a_loop_of_jumps_ends() -> None:
    assert dropped(table([{"jump": {"target": "a"}}], chains={"a": [[{"jump": {"target": "a"}}]]}))


def test_the_older_iptables() -> None:
    assert legacy_drops("-P FORWARD DROP\n-A FORWARD -i docker0 -j ACCEPT\n", "tun0")
    assert not legacy_drops("-P FORWARD DROP\n-A FORWARD -i tun0 -j ACCEPT\n", "tun0")
    assert not legacy_drops("-P FORWARD ACCEPT\n", "tun0")
