"""What the core and a worker tell each other, as bytes: one message a datagram, one byte says which it is.

Both ends are ours and of one version, so nothing here is negotiated; but everything is checked, so that a defect ends a
worker instead of misleading the core. Integers are in the machine's order, what has no bound of its own comes last.
"""

import struct
from typing import Any, Final, NamedTuple, TypeAlias

from connectivity.clock import Instant
from connectivity.data_path import message_fields as fields
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.run import Run
from connectivity.wireguard.noise import TransportKeys

MAX_MESSAGE_BYTES: Final = 128 * 1024  # the longest run, and what stands before it

# Parts that are counted: sockets by IP version, the device, the worker itself.
TUN: Final = 0
WORKER: Final = 1
WORKER_COUNTS: Final = ("handed_over", "to_core", "dropped", "unanswered", "unsent", "faulty", "errors")


class UnreadableError(Exception):
    """These bytes are no message."""


# From the core ------------------------------------------------------------------------------------------------------


class AddPeer(NamedTuple):
    """A peer of yours; ``slot`` is where in the shared memory to say what passes."""

    peer: int
    slot: int


class RemovePeer(NamedTuple):
    """Forget it, with its flows."""

    peer: int


class AddSession(NamedTuple):
    """Open on this one; the counters up to ``highest`` have been seen, the next to send with is ``counter``."""

    peer: int
    local_index: int
    remote_index: int
    is_initiator: bool
    established_at: Instant
    counter: int
    highest: int
    keys: TransportKeys


class UseSession(NamedTuple):
    """Send on the session with this local index."""

    peer: int
    local_index: int


class EndSession(NamedTuple):
    """Forget the session in the place of this local index."""

    peer: int
    local_index: int


class SetPath(NamedTuple):
    """Send to this peer by this path (``data_path.Path``); without a destination it has none."""

    peer: int
    source: Endpoint | None
    destination: Endpoint | None
    channel: int | None
    until: Instant | None


class AllowChannel(NamedTuple):
    """Take what comes on this channel until then."""

    server: Endpoint
    number: int
    until: Instant


class ForgetChannels(NamedTuple):
    """Ask again about all channels."""


class Remember(NamedTuple):
    """Forward this flow: of the peer ``peer`` if ``inbound``, else to it, who is ``owner``'s."""

    owner: int
    peer: int
    inbound: bool
    key: bytes
    source: IPAddress | None
    destination: IPAddress | None
    source_port: int | None
    destination_port: int | None
    translated: bool


class Forget(NamedTuple):
    """Ask again about this flow."""

    peer: int
    inbound: bool
    key: bytes


class ForgetFlows(NamedTuple):
    """Ask again about all flows."""


class Answer(NamedTuple):
    """To a question: ``taken`` if the core has seen to the packets in it, else they go on as it has told."""

    question: int
    taken: bool


class Seal(NamedTuple):
    """A run of the core's own for a peer."""

    peer: int
    tos: int
    run: Run


class KeepAlive(NamedTuple):
    """Send a message without a packet."""

    peer: int


class Start(NamedTuple):
    """Read sockets and device from now on."""


class Stop(NamedTuple):
    """Send what is left and end."""


# From a worker ------------------------------------------------------------------------------------------------------


class Question(NamedTuple):
    """Packets of a flow that I know nothing of: of the peer ``peer`` if ``inbound``, else of the host.

    ``question`` 0 wants no answer. ``outer_tos`` is that of the datagrams in which a peer's packets came.
    """

    question: int
    peer: int
    inbound: bool
    tos: int
    outer_tos: int
    key: bytes
    run: Run


class Stirred(NamedTuple):
    """This peer's messages use another session, or came while it had no path."""

    peer: int
    local_index: int
    data: bool


class Renew(NamedTuple):
    """The path of this peer may have ended."""

    peer: int


class RenewChannel(NamedTuple):
    """Something came on a channel that may have ended."""

    server: Endpoint
    number: int


class Used(NamedTuple):
    """A translation was applied to packets of this flow, last then; the TCP flags were these."""

    peer: int
    inbound: bool
    at: Instant
    tcp_flags: int
    key: bytes


class Dropped(NamedTuple):
    """So many of this peer's packets were, since the last time, for the reason of this number."""

    peer: int
    reason: int
    packets: int


class Counted(NamedTuple):
    """What sockets and device did since the last time: the fields of their counters, in order."""

    part: int
    values: tuple[int, ...]


class Ready(NamedTuple):
    """The worker has started: it may be lent peers."""


class Failed(NamedTuple):
    """The worker ends by an error, which is told in words."""

    text: bytes


# To whose it is -----------------------------------------------------------------------------------------------------


class Datagrams(NamedTuple):
    """Datagrams of the network, of another worker's peer or for the core; nobody hands on what is ``final``."""

    local: Endpoint
    remote: Endpoint
    tos: int
    final: bool
    run: Run


class HostPackets(NamedTuple):
    """Packets of the host for another worker's peer."""

    tos: int
    key: bytes
    run: Run


Message: TypeAlias = (
    AddPeer
    | RemovePeer
    | AddSession
    | UseSession
    | EndSession
    | SetPath
    | AllowChannel
    | ForgetChannels
    | Remember
    | Forget
    | ForgetFlows
    | Answer
    | Seal
    | KeepAlive
    | Start
    | Stop
    | Question
    | Stirred
    | Renew
    | RenewChannel
    | Used
    | Dropped
    | Counted
    | Ready
    | Failed
    | Datagrams
    | HostPackets
)


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    kind, parts_of = KINDS[type(message)]
    parts: list[bytes | memoryview] = [bytes((kind,))]
    for field, value in zip(parts_of, message, strict=True):
        parts += field.write(value)
    return b"".join(parts)


def decode(data: bytes | memoryview) -> Message:
    """Read one message. A run in it lends from ``data``.

    Raises:
        UnreadableError: it is none.
    """
    reader = fields.Reader(memoryview(data))
    try:
        made, parts_of = _MESSAGES[reader.take(1)[0]]
        values = [field.read(reader) for field in parts_of]
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise UnreadableError(f"{len(data)} bytes are no message") from error
    if len(reader.data):
        raise UnreadableError(f"{len(reader.data)} bytes too many in {made.__name__}")
    message: Message = made(*values)
    return message


_LIST: Final[list[tuple[type[Any], tuple[fields.Field, ...]]]] = [
    (AddPeer, (fields.WORD, fields.WORD)),
    (RemovePeer, (fields.WORD,)),
    (
        AddSession,
        (fields.WORD, fields.WORD, fields.WORD, fields.FLAG, fields.LONG, fields.LONG, fields.LONG, fields.KEYS),
    ),
    (UseSession, (fields.WORD, fields.WORD)),
    (EndSession, (fields.WORD, fields.WORD)),
    (
        SetPath,
        (
            fields.WORD,
            fields.optional(fields.ENDPOINT),
            fields.optional(fields.ENDPOINT),
            fields.optional(fields.PORT),
            fields.optional(fields.LONG),
        ),
    ),
    (AllowChannel, (fields.ENDPOINT, fields.PORT, fields.LONG)),
    (ForgetChannels, ()),
    (
        Remember,
        (
            fields.BYTE,
            fields.WORD,
            fields.FLAG,
            fields.OCTETS,
            fields.ADDRESS,
            fields.ADDRESS,
            fields.optional(fields.PORT),
            fields.optional(fields.PORT),
            fields.FLAG,
        ),
    ),
    (Forget, (fields.WORD, fields.FLAG, fields.OCTETS)),
    (ForgetFlows, ()),
    (Answer, (fields.WORD, fields.FLAG)),
    (Seal, (fields.WORD, fields.BYTE, fields.RUN)),
    (KeepAlive, (fields.WORD,)),
    (Start, ()),
    (Stop, ()),
    (Question, (fields.WORD, fields.WORD, fields.FLAG, fields.BYTE, fields.BYTE, fields.OCTETS, fields.RUN)),
    (Stirred, (fields.WORD, fields.WORD, fields.FLAG)),
    (Renew, (fields.WORD,)),
    (RenewChannel, (fields.ENDPOINT, fields.PORT)),
    (Used, (fields.WORD, fields.FLAG, fields.LONG, fields.WORD, fields.OCTETS)),
    (Dropped, (fields.WORD, fields.BYTE, fields.LONG)),
    (Counted, (fields.BYTE, fields.COUNTS)),
    (Ready, ()),
    (Failed, (fields.OCTETS,)),
    (Datagrams, (fields.ENDPOINT, fields.ENDPOINT, fields.BYTE, fields.FLAG, fields.RUN)),
    (HostPackets, (fields.BYTE, fields.OCTETS, fields.RUN)),
]
KINDS: Final = {made: (kind, parts) for kind, (made, parts) in enumerate(_LIST)}
_MESSAGES: Final = dict(enumerate(_LIST))
