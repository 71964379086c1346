"""Whether tables of others drop the tunnel's traffic: a connected client would lose every packet, without a word.

The rules of each base chain on the way are followed for two packets, one from a client and one back to it. What cannot
be judged (matches of iptables' own, named sets) counts as no match on the way out and as a match on the way back, so
that only a certain loss is told.
"""

import logging
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from connectivity.portal.values import Network
from connectivity.tunnel import PEERS_IPV4, PEERS_IPV6
from gateway import nftables
from gateway.nftables import NftError, Objects
from gateway.rules import TABLE

_INTERFACES: Final = Path("/sys/class/net")
_LEGACY: Final = {"ip": Path("/proc/net/ip_tables_names"), "ip6": Path("/proc/net/ip6_tables_names")}
_COMMANDS: Final = {"ip": "iptables", "ip6": "ip6tables"}
_FAMILIES: Final = {"ip": ("ipv4",), "ip6": ("ipv6",), "inet": ("ipv4", "ipv6")}
_PEERS: Final[dict[str, Network]] = {"ipv4": PEERS_IPV4, "ipv6": PEERS_IPV6}
_HOOKS: Final = ("forward", "input")
_DEEPEST_JUMP: Final = 16  # the kernel's own limit

_log = logging.getLogger("gateway")


@dataclass(frozen=True, slots=True)
class Finding:
    """A chain that drops, and what lets the tunnel's traffic through."""

    table: str
    chain: str
    hook: str
    remedy: str

    def fields(self) -> dict[str, object]:
        """For a log line."""
        return {"hook": self.hook, "table": self.table, "chain": self.chain, "remedy": self.remedy}

    def __str__(self) -> str:
        return f"chain {self.chain} of table {self.table} ({self.hook}) drops the tunnel's traffic: {self.remedy}"


@dataclass(frozen=True, slots=True)
class _Packet:
    """What is known of a packet on its way; ``lenient`` takes what cannot be judged for a match."""

    family: str
    input_device: str
    output_device: str
    state: str
    peers: str  # the field that holds a client's address
    lenient: bool


def examine(device: str) -> list[Finding]:
    """Look at this host's tables; nothing where they cannot be listed."""
    others = [path.name for path in sorted(_INTERFACES.glob("*")) if path.name not in {"lo", device}]
    try:
        chains = [entry["chain"] for entry in nftables.listing("chains") if "chain" in entry]
        tables = {
            (chain["family"], chain["table"])
            for chain in chains
            if chain.get("hook") in _HOOKS and chain["family"] in _FAMILIES and chain["table"] != TABLE
        }
        found = []
        for family, table in sorted(tables):
            found += _judge_if_possible(nftables.listing("table", family, table), device, others)
    except NftError:
        found = []  # whoever cannot list cannot load either, and that has been told
    return found + _legacy(device)


def _judge_if_possible(objects: Objects, device: str, others: Sequence[str]) -> list[Finding]:
    """What ``judge`` finds; nothing where nft writes what it cannot follow, which must not end the gateway."""
    try:
        return judge(objects, device, others)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        _log.debug("Cannot follow the rules of a table", extra={"fields": {"error": repr(error)}})
        return []


def judge(objects: Objects, device: str, others: Sequence[str]) -> list[Finding]:
    """The chains of one table that drop what goes between the device and every other one."""
    chains = {entry["chain"]["name"]: entry["chain"] for entry in objects if "chain" in entry}
    rules: dict[str, list[list[Any]]] = {name: [] for name in chains}
    for entry in objects:
        if "rule" in entry:
            rules[entry["rule"]["chain"]].append(entry["rule"]["expr"])
    found = []
    for name, chain in chains.items():
        hook = chain.get("hook")
        if hook not in _HOOKS or chain.get("type") != "filter":
            continue
        for packets in _journeys(hook, _FAMILIES[chain["family"]], device, others):
            if packets and all(_drops(chain, rules, packet) for packet in packets):
                remedy = _remedy(chain, set(chains), device)
                found.append(Finding(f"{chain['family']} {chain['table']}", name, hook, remedy))
                break
    return found


def is_of_a_client(line: str) -> bool:
    """Whether a line of /proc/net/nf_conntrack is about a connection that a client began."""
    source = next((word[4:] for word in line.split() if word.startswith("src=")), None)
    try:
        return source is not None and any(_within(_network(source), peers) for peers in _PEERS.values())
    except ValueError:
        return False


def _journeys(hook: str, families: Sequence[str], device: str, others: Sequence[str]) -> Iterator[list[_Packet]]:
    for family in families:
        if hook == "input":
            yield [_Packet(family, device, "", "new", "saddr", lenient=True)]
            continue
        yield [_Packet(family, device, other, "new", "saddr", lenient=False) for other in others]
        yield [_Packet(family, other, device, "established", "daddr", lenient=True) for other in others]


def _drops(chain: Any, rules: dict[str, list[list[Any]]], packet: _Packet) -> bool:
    verdict = _walk(chain["name"], rules, packet, 0)
    return (verdict or chain.get("policy", "accept")) == "drop"


def _walk(name: str, rules: dict[str, list[list[Any]]], packet: _Packet, depth: int) -> str | None:
    """``accept`` or ``drop``; None where the chain ends without either."""
    for expressions in rules.get(name, []) if depth <= _DEEPEST_JUMP else []:
        matched: bool | None = True
        is_named = False  # the rule is about the tunnel
        for expression in expressions:
            (kind, content), *_ = expression.items()
            if kind == "match":
                outcome = _match(content, packet)
                is_named = is_named or (outcome is True and _is_about_the_tunnel(content, packet))
                matched = _both(matched, outcome)
            elif kind == "xt":
                matched = _both(matched, None)
            elif kind == "vmap":
                kind, content = _mapped(content, packet)
            if matched is False:
                break
            certain = matched is True or is_named
            match kind:
                case "accept" | "queue" if certain or packet.lenient:
                    return "accept"
                case "drop" | "reject" if matched is True:
                    return "drop"
                case "return" if matched is True:
                    return None
                case "jump" | "goto" if certain or packet.lenient:
                    verdict = _walk(content["target"], rules, packet, depth + 1)
                    if verdict == "accept" or (verdict == "drop" and matched is True):
                        return verdict
                    if kind == "goto" and matched is True:
                        return None
                case _:
                    pass
    return None


def _both(one: bool | None, other: bool | None) -> bool | None:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def _match(content: Any, packet: _Packet) -> bool | None:
    left, right = content["left"], content["right"]
    values = right.get("set", [right]) if isinstance(right, dict) else right if isinstance(right, list) else [right]
    outcomes = [_equals(left, value, packet) for value in values]
    outcome = True if True in outcomes else None if None in outcomes or not outcomes else False
    if content.get("op") == "!=" and outcome is not None:
        return not outcome
    return outcome


def _equals(left: Any, value: Any, packet: _Packet) -> bool | None:
    if not isinstance(left, dict):
        return None
    if "meta" in left:
        key = left["meta"]["key"]
        known = {
            "iifname": packet.input_device,
            "iif": packet.input_device,
            "oifname": packet.output_device,
            "oif": packet.output_device,
            "nfproto": packet.family,
        }.get(key)
        if known is None or not isinstance(value, str) or value.startswith("@"):
            return None
        return known.startswith(value[:-1]) if value.endswith("*") else bool(known == value)
    if left.get("ct", {}).get("key") == "state":
        return bool(packet.state == value)
    payload = left.get("payload", {})
    if payload.get("protocol") in _COMMANDS and payload.get("field") in {"saddr", "daddr"}:
        return _has_address(payload, value, packet)
    return None


def _has_address(payload: Any, value: Any, packet: _Packet) -> bool | None:
    if _FAMILIES[payload["protocol"]] != (packet.family,):
        return False
    if payload["field"] != packet.peers:
        return None
    prefix = value.get("prefix") if isinstance(value, dict) else None
    text = f"{prefix['addr']}/{prefix['len']}" if prefix else str(value)
    try:
        network = _network(text)
    except ValueError:
        return None  # a range, a set
    peers = _PEERS[packet.family]
    if _within(peers, network):
        return True
    return None if network.overlaps(peers) else False


def _is_about_the_tunnel(content: Any, packet: _Packet) -> bool:
    left = content["left"]
    if not isinstance(left, dict) or content.get("op") == "!=":
        return False
    key = left.get("meta", {}).get("key", "")
    mine = "oif" if packet.state == "established" else "iif"
    return str(key).startswith(mine) or left.get("payload", {}).get("field") == packet.peers


def _mapped(content: Any, packet: _Packet) -> tuple[str, Any]:
    """The verdict of a map that is written out; nothing where the key is not known."""
    data = content.get("data")
    for key, verdict in data.get("set", []) if isinstance(data, dict) else []:
        if _equals(content["key"], key, packet) is True:
            (pair,) = verdict.items()
            return pair[0], pair[1]
    return "", None


def _remedy(chain: Any, names: set[str], device: str) -> str:
    """What an operator would type; iptables' tables are better left to its command."""
    family, table, hook = chain["family"], chain["table"], chain["hook"]
    if table == "firewalld":
        return f"firewall-cmd --zone=trusted --add-interface={device} (and once more with --permanent)"
    ways = ("in", "out") if hook == "forward" else ("in",)
    if any(name.startswith(("ufw-", "ufw6-")) for name in names):
        route = "route " if hook == "forward" else ""
        return "; ".join(f"ufw {route}allow {way} on {device}" for way in ways)
    if family in _COMMANDS and chain["name"] in {"FORWARD", "INPUT"}:
        return _by_iptables(_COMMANDS[family], "DOCKER-USER" if "DOCKER-USER" in names else chain["name"], ways, device)
    return "; ".join(f"nft insert rule {family} {table} {chain['name']} {way[0]}ifname {device} accept" for way in ways)


def _by_iptables(command: str, chain: str, ways: Sequence[str], device: str) -> str:
    return "; ".join(f"{command} -I {chain} -{way[0]} {device} -j ACCEPT" for way in ways)


def _legacy(device: str) -> list[Finding]:
    """The filter of iptables' older kind, which nft does not show."""
    found = []
    for family, path in _LEGACY.items():
        try:
            if "filter" not in path.read_text(encoding="ascii").split():
                continue
        except OSError:
            continue  # no such tables, or not for us to see
        command = f"{_COMMANDS[family]}-legacy"
        try:
            done = subprocess.run([command, "-S", "FORWARD"], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.SubprocessError):
            continue
        if legacy_drops(done.stdout, device):
            remedy = _by_iptables(command, "FORWARD", ("in", "out"), device)
            found.append(Finding(f"{family} filter (iptables-legacy)", "FORWARD", "forward", remedy))
    return found


def legacy_drops(listed: str, device: str) -> bool:
    """Whether the chain FORWARD as ``iptables -S`` shows it drops what comes from the device, as far as it tells."""
    lines = [line.split() for line in listed.splitlines()]
    if ["-P", "FORWARD", "DROP"] not in lines:
        return False
    return not any(words[-2:] == ["-j", "ACCEPT"] and f"-i {device}" in " ".join(words) for words in lines)


def _network(text: Any) -> Network:
    found: Network = ip_network(text)
    return found


def _within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # one version
