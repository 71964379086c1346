"""What becomes of a packet in a chain of nftables, as ``nft -j`` lists it.

Rules are followed as the kernel does. What cannot be judged (matches of iptables' own, named sets) counts as no match,
or as one for a packet that is ``lenient``, so that only a certain loss is told. ``connectivity.io.firewall`` follows
nothing: it names chains where the command ``nft`` may be missing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, Final, TypeAlias

from connectivity.ranges import Network

FAMILIES: Final = {"ip": ("ipv4",), "ip6": ("ipv6",), "inet": ("ipv4", "ipv6")}
_PROTOCOLS: Final = {"udp": 17, "tcp": 6}
_UNKNOWN: Final = frozenset({"ct count", "limit", "quota", "xt"})  # these match some packets
_DEEPEST_JUMP: Final = 16  # the kernel's own limit

Rules: TypeAlias = Mapping[str, Sequence[list[Any]]]  # the expressions of each rule of each chain


@dataclass(frozen=True, slots=True)
class Packet:
    """What is known of a packet on its way.

    Attributes:
        lenient: what cannot be judged is taken for a match.
        peers: the field that holds one of ``networks``; empty where no address is known.
        protocol: ``udp`` or ``tcp``, with its port; nothing where any may be meant.
    """

    family: str
    input_device: str
    output_device: str
    state: str
    lenient: bool
    peers: str = ""
    networks: Mapping[str, Network] = field(default_factory=dict)
    protocol: str = ""
    port: int = 0


def read(objects: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], Rules]:
    """The chains of one table's listing by name, and their rules."""
    chains: dict[str, Any] = {}
    rules: dict[str, list[list[Any]]] = {}
    for entry in objects:
        if "chain" in entry:
            chains[entry["chain"]["name"]] = entry["chain"]
        elif "rule" in entry:
            rules.setdefault(entry["rule"]["chain"], []).append(entry["rule"]["expr"])
    return chains, rules


def drops(chain: Any, rules: Rules, packet: Packet) -> bool:
    """Whether a base chain is the end of a packet."""
    verdict = _walk(chain["name"], rules, packet, 0)
    return (verdict or chain.get("policy", "accept")) == "drop"


def _walk(name: str, rules: Rules, packet: Packet, depth: int) -> str | None:
    """``accept`` or ``drop``; None where the chain ends without either."""
    may_return = False  # by a rule that cannot be judged
    for expressions in rules.get(name, []) if depth <= _DEEPEST_JUMP else []:
        matched: bool | None = _of_state(expressions, packet)
        is_named = False  # the rule is about where the packet belongs
        for expression in expressions:
            (kind, content), *_ = expression.items()
            if kind == "match":
                outcome = _match(content, packet)
                is_named = is_named or (outcome is True and _is_about(content, packet))
                matched = _both(matched, outcome)
            elif kind in _UNKNOWN:
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
                    return None if may_return else "drop"
                case "return" if matched is True:
                    return None
                case "return" if packet.lenient:
                    may_return = True
                case "jump" | "goto" if certain or packet.lenient:
                    verdict = _walk(content["target"], rules, packet, depth + 1)
                    if verdict == "accept":
                        return verdict
                    if verdict == "drop" and matched is True:
                        return None if may_return else verdict
                    if kind == "goto" and matched is True:
                        return None
                case _:
                    pass
    return None


def _of_state(expressions: list[Any], packet: Packet) -> bool:
    """False for what begins, where iptables' conntrack is all that a rule asks: it is there for what goes on."""
    asked = [expression for expression in expressions if expression.keys() & {"match", *_UNKNOWN}]
    if packet.state != "new" or len(asked) != 1:
        return True
    match = asked[0].get("xt")
    return not (isinstance(match, dict) and match.get("name") in {"conntrack", "state"})


def _both(one: bool | None, other: bool | None) -> bool | None:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def _match(content: Any, packet: Packet) -> bool | None:
    left, right = content["left"], content["right"]
    values = right.get("set", [right]) if isinstance(right, dict) else right if isinstance(right, list) else [right]
    outcomes = [_equals(left, value, packet) for value in values]
    outcome = True if True in outcomes else None if None in outcomes or not outcomes else False
    if content.get("op") == "!=" and outcome is not None:
        return not outcome
    return outcome


def _equals(left: Any, value: Any, packet: Packet) -> bool | None:
    if not isinstance(left, dict):
        return None
    if "meta" in left:
        key = left["meta"]["key"]
        if key == "l4proto" and packet.protocol:
            return value in {packet.protocol, _PROTOCOLS[packet.protocol]}
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
    if packet.protocol and payload:
        return _has_protocol(payload, value, packet)
    if payload.get("protocol") in {"ip", "ip6"} and payload.get("field") in {"saddr", "daddr"}:
        return _has_address(payload, value, packet)
    return None


def _has_protocol(payload: Any, value: Any, packet: Packet) -> bool | None:
    protocol, name = payload.get("protocol"), payload.get("field")
    if protocol in {"ip", "ip6"}:
        if name in {"protocol", "nexthdr"}:
            return value in {packet.protocol, _PROTOCOLS[packet.protocol]}
        return False if FAMILIES[protocol] != (packet.family,) else None
    if protocol not in {packet.protocol, "th"}:
        return False
    return _has_port(value, packet.port) if name == "dport" else None


def _has_address(payload: Any, value: Any, packet: Packet) -> bool | None:
    if FAMILIES[payload["protocol"]] != (packet.family,):
        return False
    peers = packet.networks.get(packet.family)
    if payload["field"] != packet.peers or peers is None:
        return None
    prefix = value.get("prefix") if isinstance(value, dict) else None
    text = f"{prefix['addr']}/{prefix['len']}" if prefix else str(value)
    try:
        found = network(text)
    except ValueError:
        return None  # a range, a set
    if within(peers, found):
        return True
    return None if found.overlaps(peers) else False


def _is_about(content: Any, packet: Packet) -> bool:
    left = content["left"]
    if not isinstance(left, dict) or content.get("op") == "!=":
        return False
    key = left.get("meta", {}).get("key", "")
    mine = "oif" if packet.state == "established" else "iif"
    return str(key).startswith(mine) or left.get("payload", {}).get("field") == packet.peers


def _mapped(content: Any, packet: Packet) -> tuple[str, Any]:
    """The verdict of a map that is written out; nothing where the key is not known."""
    data = content.get("data")
    for key, verdict in data.get("set", []) if isinstance(data, dict) else []:
        if _equals(content["key"], key, packet) is True:
            (pair,) = verdict.items()
            return pair[0], pair[1]
    return "", None


def _has_port(value: Any, port: int) -> bool | None:
    if isinstance(value, dict) and "range" in value:
        lowest, highest = value["range"]
        return bool(lowest <= port <= highest)
    return value == port if isinstance(value, int) else None


def network(text: Any) -> Network:
    """An address or a range as nft writes it.

    Raises:
        ValueError: it is neither.
    """
    found: Network = ip_network(text)
    return found


def within(inner: Network, outer: Network) -> bool:
    """Whether one network lies in the other."""
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]  # one version
