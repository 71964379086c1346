"""Who is connected: devices, relays, the sessions of both, and what leaves through them.

A *device* is a client or a gateway; it keeps its id and addresses over sessions. A *session* is one WebSocket. The
newest joined session of a device is the one that gets its messages. Outputs wait in an ``Outbox`` in the order in which
they must leave.
"""

from collections import deque
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

from connectivity.clock import Instant
from connectivity.phoenix.message import REPLY_EVENT, Json, Message, encode
from portal.budgets import Allowance
from portal.configuration import Token, TokenType
from portal.derivation import Party
from portal.login import DeviceLogin, RelayLogin, Version


@dataclass(slots=True)
class Device:
    """A client or a gateway of one entry of the tokens. ``owner`` is the actor's name or the site's id."""

    id: str
    type: TokenType
    entry: str
    offset: int
    owner: str
    name: str
    ipv4: IPv4Address
    ipv6: IPv6Address
    allowance: Allowance = field(repr=False)
    public_key: str = ""
    psk_base: bytes = field(default=b"", repr=False)
    version: Version = (0, 0, 0)
    turn_expiry: int = 0
    seen_at: Instant = 0
    session: "Session | None" = None  # the joined one

    @property
    def party(self) -> Party:
        """What the derivations need."""
        return Party(self.id, self.public_key, self.psk_base)


@dataclass(slots=True)
class Relay:
    """A relay; ``stamp_secret`` is that of its joined session."""

    id: str
    name: str
    ipv4: IPv4Address | None
    ipv6: IPv6Address | None
    port: int
    entry: str = ""  # of the tokens; whose session it is
    stamp_secret: str = field(default="", repr=False)
    session: "Session | None" = None
    leaves_at: Instant | None = None  # the link is gone, the relay still counts until then


@dataclass(slots=True, eq=False)
class Session:
    """One WebSocket that was let in. ``party`` is its device or relay."""

    number: int
    login: DeviceLogin | RelayLogin
    token: Token  # as the configuration has it now
    party: Device | Relay
    last_received_at: Instant
    allowance: Allowance = field(repr=False)
    joined: bool = False
    joined_at: Instant = 0
    relay_ids: tuple[str, ...] = ()  # what the device was told to use
    resources: dict[str, dict[str, Json]] = field(default_factory=dict)  # what a client was told, by id
    site_ids: frozenset[str] = frozenset()  # whose gateways a client may meet
    interface: Json = None

    @property
    def topic(self) -> str:
        """The one topic of this socket."""
        return self.token.type.value


@dataclass(frozen=True, slots=True)
class SendText:
    """A text frame for a session's socket."""

    session: Session
    text: str = field(repr=False)
    is_droppable: bool = False  # where the session's queue is long


@dataclass(frozen=True, slots=True)
class CloseTransport:
    """Drop the session's TCP connection once what was sent before has left; no close frame, which peers misread."""

    session: Session


Output: TypeAlias = SendText | CloseTransport

OK_REPLY: Final[Json] = {"status": "ok", "response": {}}


class Outbox:
    """Outputs in order."""

    def __init__(self) -> None:
        self._outputs: deque[Output] = deque()

    def push(self, session: Session, event: str, payload: Json, *, is_droppable: bool = False) -> None:
        """An event of the session's own topic."""
        self._outputs.append(SendText(session, encode(Message(session.topic, event, payload, None)), is_droppable))

    def reply(self, session: Session, to: Message, reason: str | None = None) -> None:
        """Answer a message: ok, or an error with its reason."""
        payload = OK_REPLY if reason is None else {"status": "error", "response": {"reason": reason}}
        self._outputs.append(SendText(session, encode(Message(to.topic, REPLY_EVENT, payload, to.ref))))

    def close(self, session: Session) -> None:
        """End the session from our side."""
        self._outputs.append(CloseTransport(session))

    def poll(self) -> Output | None:
        """The next output."""
        return self._outputs.popleft() if self._outputs else None
