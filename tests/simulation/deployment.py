"""Who and what there is in a simulated deployment."""

from typing import Final

from portal.configuration import ResourceType
from tests.simulation import names
from tests.simulation.book import Ware
from tests.simulation.network import Behaviour
from tests.simulation.traffic import Kind

CLIENTS: Final[tuple[str, ...]] = ("alice", "bob")
GATEWAYS: Final = {"desk": "office", "attic": "office", "cellar": "lab"}
RELAYS: Final = ("east", "west")
FILTERED: Final = (("tcp", 80, 443), ("udp", 53, 53), ("icmp", 0, 0))
WARES: Final = (
    Ware("printers", "10.20.0.0/24", "office"),
    Ware("wiki", "2001:db8:20::/64", "office"),
    Ware("racks", "10.30.0.0/24", "lab", FILTERED),
    Ware("internet", "93.184.216.0/24", "lab", type=ResourceType.INTERNET),
    Ware("intranet", "*.office.test", "office", type=ResourceType.DNS),
    Ware("store", "db.lab.test", "lab", FILTERED, type=ResourceType.DNS),
)
PLACES: Final = tuple(ware.name for ware in WARES if ware.type is not ResourceType.DNS)
NAMES: Final = tuple(names.FIRST)
OPEN_PORT: Final = {Kind.TCP: 80, Kind.UDP: 53, Kind.ICMP: 0}
CLOSED_PORT: Final = {Kind.TCP: 8080, Kind.UDP: 5353}


def relay_addresses(number: int) -> tuple[str, str]:
    """Of the so-manieth relay, IPv4 first."""
    return f"198.51.100.{10 + number % 200}", f"2001:db8:ffff::{number + 1:x}"


def outside_address(number: int) -> str:
    """Of the router of a place."""
    return f"203.0.113.{number % 200}"


def home_addresses(number: int, kind: Behaviour | None) -> dict[int, str]:
    """Of a machine at a place, by IP version; behind routers that translate everybody has the same private one."""
    own = {4: outside_address(number), 6: f"2001:db8:{number:x}::10"}
    if kind is not None:
        own[4] = "192.168.1.10" if kind.translates else f"203.0.113.{200 + number % 50}"
    return own
