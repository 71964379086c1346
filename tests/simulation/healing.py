"""Everything works again: then every resource is reached, and every question has a true answer."""

from itertools import product
from typing import Final

from connectivity.endpoint import Endpoint
from portal.configuration import NEVER, DnsSettings
from tests.simulation.book import SETTLED
from tests.simulation.deployment import NAMES, PLACES, WARES
from tests.simulation.forwarding import SYSTEM_SERVERS, UPSTREAM_SERVERS, servers
from tests.simulation.names import FIRST, LONG, PUBLIC
from tests.simulation.questions import ANSWERED_WITHIN, TYPES
from tests.simulation.world import World

_WAYS: Final = ((False, True), (True, False))  # over UDP of the last server, over TCP of the first


def heal(world: World) -> None:
    """Cables, processes, weather, names, and who may do what are as they were at first."""
    world.disturbed()
    everybody = (*world.relays, *world.tunnellers)
    for name in everybody:
        world.mend_control(name)
        world.plug(name)
    for place in world.network.places.values():
        place.loss, place.doubling, place.jitter, place.largest = 0.0, 0.0, 0, None
    for name, (_, addresses) in FIRST.items():
        world.zone.put(name, addresses)
    for ware in WARES:
        world.book.put(ware, world.network.now)
        for client in world.clients:
            world.book.grant(client, ware.name, NEVER, world.network.now)
    for client in world.clients:
        world.tunnellers[client].use_resolvers(servers(SYSTEM_SERVERS[0]))
    world.book.serve_names(DnsSettings(), world.network.now)
    world.write()
    world.portal.start()
    for name in everybody:
        world.start(name)


def reach_everything(world: World) -> None:
    """Each client every resource, by address or by name."""
    for client in world.clients:
        for place in PLACES:
            world.reach(client, place)
        for name, (_, addresses) in FIRST.items():
            for version in sorted({4 if "." in address else 6 for address in addresses}):
                world.reach_name(client, name, version)


def ask_everything(world: World) -> None:
    """Each client every kind of question, after the portal has named some servers."""
    upstream = world.random.choice(UPSTREAM_SERVERS)
    world.name_servers(DnsSettings(tuple(map(Endpoint.parse, upstream)), "office.test"))
    world.advance(2 * SETTLED)
    for client, name, kind in product(world.clients, (*NAMES, PUBLIC, LONG), TYPES):
        for over_tcp, of_last in _WAYS:
            question = world.ask(client, name, kind, over_tcp=over_tcp, of_last=of_last)
            is_owed = question is not None and question.number in world.questions.owed
            has_room = not upstream or (name, kind) != (LONG, "TXT")
            assert is_owed or not has_room, f"everything works, and yet is not owed: {question}"
    world.advance(ANSWERED_WITHIN)
