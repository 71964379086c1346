"""What a client's device and its DNS are like once the client has heard all that its portal says.

The model takes it from the book and from the host: servers behind sentinels, search domain, routes, and which questions
have to be answered. It knows nothing of how names or resources are reached.
"""

from ipaddress import ip_network
from typing import Final

from client.dns.sentinels import is_sentinel
from connectivity.endpoint import Endpoint
from connectivity.ranges import PROXIES_IPV4, PROXIES_IPV6, SENTINELS_IPV4, SENTINELS_IPV6
from connectivity.tunnel import PEERS_IPV4, PEERS_IPV6
from portal.configuration import ResourceType
from tests.simulation.book import SETTLED, Book
from tests.simulation.ledger import Ledger, clock
from tests.simulation.machines import Tunneller
from tests.simulation.names import DNS_PORT, FIRST, LONG
from tests.simulation.questions import ADDRESSES, OUTSIDE, Question

_ALWAYS: Final = {PEERS_IPV4, PEERS_IPV6, PROXIES_IPV4, PROXIES_IPV6, SENTINELS_IPV4, SENTINELS_IPV6}
_EVERYTHING: Final = {ip_network("0.0.0.0/0"), ip_network("::/0")}


def has_heard(book: Book, machine: Tunneller) -> bool:
    """Whether a client knows all that its portal says, and that is not about to change."""
    link, now = machine.link, machine.network.now
    if link is None or not link.is_live or machine.configured is None or link.joined_at is None:
        return False
    return now - max(link.joined_at, link.resumed_at) > SETTLED and book.is_settled(machine.entry, now)


def check(book: Book, machine: Tunneller) -> None:
    """Fail where a client that has heard everything has not done it."""
    own = machine.configured
    if own is None or not has_heard(book, machine):
        return
    now, page = machine.network.now, book.page
    where = f"{machine.name}, {clock(now)}"
    wanted = set(page.dns.upstream) or {Endpoint(address, DNS_PORT) for address in machine.resolvers}
    assert {server for _, server in own.sentinels} == wanted, f"{where}: {own.sentinels} for {wanted}"
    addresses = [sentinel for sentinel, _ in own.sentinels]
    assert len(set(addresses)) == len(wanted), f"{where}: {addresses}"
    for sentinel, server in own.sentinels:
        assert is_sentinel(sentinel), f"{where}: {sentinel}"
        assert sentinel.version == server.ip.version, f"{where}: {sentinel} for {server}"
    assert own.search_domain == page.dns.search_domain, f"{where}: {own.search_domain}"
    routes = set(_ALWAYS)
    for ware in page.grants_of(machine.entry, now):
        if ware.type is ResourceType.CIDR:
            routes.add(ip_network(ware.address))
        elif ware.type is ResourceType.INTERNET:
            routes |= _EVERYTHING
    assert set(own.routes) == routes, f"{where}: {own.routes} for {routes}"


def owes_answer(book: Book, ledger: Ledger, machine: Tunneller, question: Question) -> bool:
    """Whether all works that a true answer needs; what is asked through a resource needs that it has been reached."""
    own = machine.configured
    if own is None or not has_heard(book, machine):
        return False
    held = {ware.name for ware in book.page.grants_of(machine.entry, machine.network.now)}
    resource = FIRST.get(question.name, ("", ()))[0]
    if question.type in ADDRESSES.values() and resource in held:
        return True
    if question.type in ("TXT", "SRV") and resource in held:
        return ledger.has_reached(machine.name, resource)
    if question.type == "PTR" and question.name != OUTSIDE:
        return True
    server = dict(own.sentinels)[question.sentinel]
    inside = [name for name in held if book.page.dns.upstream and book.ware(name).covers(server.ip)]
    if not inside:
        return not machine.host.is_cut
    has_room = (question.name, question.type) != (LONG, "TXT")
    return has_room and all(ledger.has_reached(machine.name, name) for name in inside)
