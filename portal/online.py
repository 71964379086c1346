"""Who is on line, as people are shown it; names are as the components and the file have them, to be escaped there."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from connectivity.clock import Instant
from connectivity.endpoint import IPAddress
from portal.configuration import Configuration, TokenType
from portal.session import Device, Session


@dataclass(frozen=True, slots=True)
class Online:
    """A component that has joined.

    Attributes:
        entry: the name of its token's entry.
        text: which of that entry's texts it came by, from 1.
        owner: of a client the actor, of a gateway its site's name; of a relay nothing.
        addresses: of a device those in the tunnel, of a relay the public ones.
        version: as its User-Agent says; of a relay nothing.
        resources: how many a client was told of.
    """

    type: TokenType
    id: str
    name: str
    entry: str
    text: int
    owner: str
    addresses: tuple[IPAddress, ...]
    version: str
    joined_at: Instant
    resources: int


def online(sessions: Iterable[Session], configuration: Configuration) -> Iterator[Online]:
    """The components behind these sessions, but for sessions that their component has replaced by another."""
    for session in sessions:
        party = session.party
        if not session.joined or party.session is not session:
            continue
        kind, entry, since = session.token.type, session.token.name, session.joined_at
        text = configuration.tokens_by_name[entry].texts.index(session.token.texts[0]) + 1
        if isinstance(party, Device):
            site = configuration.sites_by_id.get(party.owner)
            owner = party.owner if site is None else site.name
            version = ".".join(map(str, party.version))
            addresses: tuple[IPAddress, ...] = (party.ipv4, party.ipv6)
            told = len(session.resources)
            yield Online(kind, party.id, party.name, entry, text, owner, addresses, version, since, told)
        else:
            addresses = tuple(address for address in (party.ipv4, party.ipv6) if address is not None)
            yield Online(kind, party.id, party.name or "", entry, text, "", addresses, "", since, 0)
