"""Whether tables of others drop the tunnel's traffic: a connected client would lose every packet, without a word.

The rules of each base chain on the way are followed for two packets, one from a client and one back to it. What cannot
be judged (matches of iptables' own, named sets) counts as no match on the way out and as a match on the way back, so
that only a certain loss is told.
"""

import logging
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from connectivity.io import nftables
from connectivity.io.nftables import NftError, Objects
from connectivity.io.packet_filter import FAMILIES, Packet, drops, network, read, within
from connectivity.ranges import Network
from connectivity.tunnel import PEERS_IPV4, PEERS_IPV6
from gateway.rules import TABLE

_INTERFACES: Final = Path("/sys/class/net")
_LEGACY: Final = {"ip": Path("/proc/net/ip_tables_names"), "ip6": Path("/proc/net/ip6_tables_names")}
_COMMANDS: Final = {"ip": "iptables", "ip6": "ip6tables"}
_PEERS: Final[dict[str, Network]] = {"ipv4": PEERS_IPV4, "ipv6": PEERS_IPV6}
_HOOKS: Final = ("forward", "input")

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


def examine(device: str) -> list[Finding]:
    """Look at this host's tables; nothing where they cannot be listed."""
    others = [path.name for path in sorted(_INTERFACES.glob("*")) if path.name not in {"lo", device}]
    try:
        chains = [entry["chain"] for entry in nftables.listing("chains") if "chain" in entry]
        tables = {
            (chain["family"], chain["table"])
            for chain in chains
            if chain.get("hook") in _HOOKS and chain["family"] in FAMILIES and chain["table"] != TABLE
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
    chains, rules = read(objects)
    found = []
    for name, chain in chains.items():
        hook = chain.get("hook")
        if hook not in _HOOKS or chain.get("type") != "filter":
            continue
        for packets in _journeys(hook, FAMILIES[chain["family"]], device, others):
            if packets and all(drops(chain, rules, packet) for packet in packets):
                remedy = _remedy(chain, set(chains), device)
                found.append(Finding(f"{chain['family']} {chain['table']}", name, hook, remedy))
                break
    return found


def is_of_a_client(line: str) -> bool:
    """Whether a line of /proc/net/nf_conntrack is about a connection that a client began."""
    source = next((word[4:] for word in line.split() if word.startswith("src=")), None)
    try:
        return source is not None and any(within(network(source), peers) for peers in _PEERS.values())
    except ValueError:
        return False


def _journeys(hook: str, families: Sequence[str], device: str, others: Sequence[str]) -> Iterator[list[Packet]]:
    for family in families:
        if hook == "input":
            yield [Packet(family, device, "", "new", True, "saddr", _PEERS)]
            continue
        yield [Packet(family, device, other, "new", False, "saddr", _PEERS) for other in others]
        yield [Packet(family, other, device, "established", True, "daddr", _PEERS) for other in others]


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
