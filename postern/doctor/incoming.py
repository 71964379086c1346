"""Whether this host's nftables keep out what a relay has to be sent: clients would get no answer, and no reason."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from connectivity.io import nftables
from connectivity.io.nftables import NftError, Objects
from connectivity.io.packet_filter import FAMILIES, Packet, drops, read
from postern.doctor.finding import Finding

_INTERFACES: Final = Path("/sys/class/net")
_TUNNELS: Final = ("lo", "tun-firezone")
_COMMANDS: Final = {"ip": "iptables", "ip6": "ip6tables"}


class Opening(NamedTuple):
    """Ports that strangers have to reach."""

    protocol: str
    first: int
    last: int

    def text(self, between: str = "-") -> str:
        """As people and firewalls write them, without the protocol."""
        return str(self.first) if self.first == self.last else f"{self.first}{between}{self.last}"


def examine(openings: Sequence[Opening], versions: Sequence[int]) -> list[Finding]:
    """What is certainly dropped of it, by every interface; nothing where the tables cannot be listed."""
    devices = [path.name for path in sorted(_INTERFACES.glob("*")) if path.name not in _TUNNELS]
    try:
        chains = [entry["chain"] for entry in nftables.listing("chains") if "chain" in entry]
        tables = {(each["family"], each["table"]) for each in chains if each.get("hook") == "input"}
        listings = [nftables.listing("table", *table) for table in sorted(tables) if table[0] in FAMILIES]
    except NftError:
        return []
    families = [f"ipv{version}" for version in versions]
    return [finding for objects in listings for finding in judge(objects, openings, families, devices)]


def judge(
    objects: Objects, openings: Sequence[Opening], families: Sequence[str], devices: Sequence[str]
) -> Iterator[Finding]:
    """The chains of one table that drop them."""
    chains, rules = read(objects)
    for name, chain in chains.items():
        if chain.get("hook") != "input" or chain.get("type") != "filter":
            continue
        lost = [
            opening
            for opening in openings
            if any(
                packets and all(drops(chain, rules, packet) for packet in packets)
                for packets in _journeys(opening, families, chain, devices)
            )
        ]
        if lost:
            what = ", ".join(f"{opening.protocol.upper()} {opening.text()}" for opening in lost)
            told = f"chain {name} of table {chain['family']} {chain['table']} (input) drops {what}"
            yield Finding(told, _remedy(chain, set(chains), lost))


def _journeys(opening: Opening, families: Sequence[str], chain: Any, devices: Sequence[str]) -> Iterator[list[Packet]]:
    for family in FAMILIES[chain["family"]]:
        for port in {opening.first, opening.last} if family in families else ():
            yield [
                Packet(family, device, "", "new", lenient=True, protocol=opening.protocol, port=port)
                for device in devices
            ]


def _remedy(chain: Any, names: set[str], lost: Sequence[Opening]) -> str:
    """What an operator would type."""
    family, table = chain["family"], chain["table"]
    if table == "firewalld":
        ports = " ".join(f"--add-port={opening.text()}/{opening.protocol}" for opening in lost)
        return f"firewall-cmd --permanent {ports}; firewall-cmd --reload"
    if any(name.startswith(("ufw-", "ufw6-")) for name in names):
        return "; ".join(f"ufw allow {opening.text(':')}/{opening.protocol}" for opening in lost)
    if family in _COMMANDS and chain["name"] == "INPUT":
        command = f"{_COMMANDS[family]} -I INPUT -p"
        return "; ".join(f"{command} {each.protocol} --dport {each.text(':')} -j ACCEPT" for each in lost)
    insert = f"nft insert rule {family} {table} {chain['name']}"
    wanted = {each: [opening.text() for opening in lost if opening.protocol == each] for each in ("udp", "tcp")}
    return "; ".join(
        f"{insert} {protocol} dport '{{ {', '.join(texts)} }}' accept" for protocol, texts in wanted.items() if texts
    )
