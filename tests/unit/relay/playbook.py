"""A relay on a table: the core with a driver that is a few lists, and clients that speak to it.

``RelayUnderTest`` copies every output (data-path ones borrow memory), answers ``OpenRelayedPort`` at once and keeps
what a kernel would: open ports, installed channels, connections to close. ``Client`` authenticates like one of
Firezone's peers.
"""

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeVar

from connectivity.clock import SECOND, Instant
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.run import Received, Run, Transmit
from connectivity.stun import (
    HEADER_BYTES,
    AdditionalAddressFamily,
    AddressFamily,
    Attribute,
    ChannelNumber,
    ErrorCodeAttribute,
    Message,
    MessageClass,
    Method,
    Nonce,
    Realm,
    RequestedTransport,
    Software,
    Username,
    XorPeerAddress,
    XorRelayedAddress,
    decode,
    encode,
    long_term_key,
)
from connectivity.stun.integrity import integrity_sha1
from connectivity.turn import channel_data, credentials
from relay.core import (
    CloseRelayedPort,
    CloseStream,
    CredentialSource,
    FiveTuple,
    IcmpError,
    InstallChannel,
    NonceMint,
    NoteChannel,
    OpenRelayedPort,
    Output,
    PeerPolicy,
    Quotas,
    Relayed,
    RemoveChannel,
    Server,
    ServerSettings,
    SetBucket,
    StampSecretCredentials,
    ToClient,
    ToPeer,
)
from relay.core.authentication import NonceSource
from relay.core.peers import parse_rules

A = TypeVar("A", bound=Attribute)

STAMP_SECRET = "00112233445566778899aabbccddeeff" * 2
WALL = 1_700_000_000 * SECOND
EXPIRY = 1_893_456_000
SALT = credentials.salt("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
PUBLIC = {4: ip_address("192.0.2.10"), 6: ip_address("2001:db8::10")}
INTERNAL = ip_address("10.0.0.10")
SERVER4 = Endpoint(PUBLIC[4], 3478)
SERVER6 = Endpoint(PUBLIC[6], 3478)
PEER4 = Endpoint.parse("198.51.100.7:40000")
PEER6 = Endpoint.parse("[2001:db8:1::7]:40000")


class Entropy:
    """Deterministic random bytes."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)

    def __call__(self, count: int) -> bytes:
        return self._random.randbytes(count)


@dataclass
class RelayUnderTest:
    """The server, its virtual time, and the world as it left it."""

    public: dict[int, IPAddress] = field(default_factory=lambda: dict(PUBLIC))
    under_portal: bool = True
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    quotas: Quotas = field(default_factory=Quotas)
    lowest_port: int = 49_152
    highest_port: int = 65_535
    software: str = "relay"
    realm: str = "firezone"
    source: CredentialSource = field(default_factory=lambda: StampSecretCredentials(STAMP_SECRET))
    alternate: dict[int, Endpoint] = field(default_factory=dict)
    nonces: NonceSource = field(default_factory=lambda: NonceMint(b"nonce secret"))
    now: Instant = 1000 * SECOND
    wall_now: int = WALL
    unbindable: set[int] = field(default_factory=set)  # EADDRINUSE
    may_bind: bool = True  # otherwise out of file descriptors
    open_ports: dict[int, set[AddressFamily]] = field(default_factory=dict)
    installed: dict[tuple[Endpoint, Endpoint, int], InstallChannel] = field(default_factory=dict)
    buckets: dict[int, int] = field(default_factory=dict)  # bytes per second
    open_attempts: int = 0
    closed_streams: list[FiveTuple] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server = Server(self.settings(), source=self.source, nonces=self.nonces, rng=Entropy())

    def settings(self) -> ServerSettings:
        """What the server is told at start, or anew after a change of ours."""
        own = frozenset({*self.public.values(), INTERNAL})
        allow, deny = (tuple(rule for text in texts for rule in parse_rules(text)) for texts in (self.allow, self.deny))
        return ServerSettings(
            public=self.public,
            policy=PeerPolicy(self.under_portal, allow, deny, own),
            software=self.software,
            realm=self.realm,
            lowest_port=self.lowest_port,
            highest_port=self.highest_port,
            alternate=self.alternate,
            quotas=self.quotas,
        )

    def reconfigure(self) -> list[Relayed | Output]:
        """Let the server take over what was changed here."""
        self.server.reconfigure(self.settings(), self.source, self.now)
        return [*self.drain()]

    def from_client(
        self, client: Endpoint, data: bytes | Run, *, tos: int = 0, server: Endpoint | None = None
    ) -> list[Relayed | Output]:
        """Feed what a client sent; returns all outputs in order."""
        run = data if isinstance(data, Run) else Run.single(data)
        local = server or (SERVER4 if client.ip.version == 4 else SERVER6)
        received = Received(local, client, run, tos)
        relayed = [_kept(output) for output in self.server.handle_client(received, self.now, self.wall_now)]
        return [*relayed, *self.drain()]

    def from_stream(self, five_tuple: FiveTuple, data: bytes) -> list[Relayed | Output]:
        """Feed bytes of a connection."""
        relayed = self.server.handle_stream(five_tuple, memoryview(data), self.now, self.wall_now)
        return [*map(_kept, relayed), *self.drain()]

    def icmp(self, port: int, icmp: IcmpError) -> list[Relayed | Output]:
        """Feed an ICMP error about a datagram that left from a relayed port."""
        return [*map(_kept, self.server.handle_icmp(port, icmp, self.now)), *self.drain()]

    def from_peer(self, port: int, peer: Endpoint, data: bytes | Run, *, tos: int = 0) -> list[Relayed | Output]:
        """Feed what a peer sent to a relayed port."""
        run = data if isinstance(data, Run) else Run.single(data)
        received = Received(Endpoint(PUBLIC[peer.ip.version], port), peer, run, tos)
        relayed = [_kept(output) for output in self.server.handle_peer(port, received, self.now)]
        return [*relayed, *self.drain()]

    def advance(self, seconds: float) -> list[Relayed | Output]:
        """Let time pass, waking the server whenever it asks for it."""
        end = self.now + int(seconds * SECOND)
        outputs: list[Relayed | Output] = []
        while (deadline := self.server.poll_timeout()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.server.handle_timeout(self.now)
            outputs += self.drain()
            after = self.server.poll_timeout()
            assert after is None or after > self.now, "a handled timeout must lie behind us"
        self.wall_now += end - self.now
        self.now = end
        return outputs

    def drain(self) -> list[Output]:
        """Do what the server asks for, until it asks for nothing."""
        outputs: list[Output] = []
        while (output := self.server.poll_output()) is not None:
            outputs.append(output)
            match output:
                case OpenRelayedPort(port, families):
                    self._open(port, families)
                case CloseRelayedPort(port, families):
                    self.open_ports[port] -= set(families)
                    if not self.open_ports[port]:
                        del self.open_ports[port]
                case InstallChannel(five_tuple, channel):
                    assert not output.bucket or output.bucket in self.buckets
                    self.installed[(five_tuple.client, five_tuple.server, channel)] = output
                case RemoveChannel(five_tuple, channel):
                    del self.installed[(five_tuple.client, five_tuple.server, channel)]
                case CloseStream(five_tuple):
                    self.closed_streams.append(five_tuple)
                case SetBucket(bucket, bytes_per_second):
                    self.buckets[bucket] = bytes_per_second
                case ToClient() | NoteChannel():
                    pass
        return outputs

    def drops(self) -> dict[str, int]:
        """Drop counters by reason."""
        return {reason.value: count for reason, count in self.server.statistics().drops.items()}

    def _open(self, port: int, families: Iterable[AddressFamily]) -> None:
        self.open_attempts += 1
        if port in self.unbindable or not self.may_bind:
            self.server.relayed_port_failed(port, may_retry=self.may_bind)
            return
        assert port not in self.open_ports, "a port in use was handed out"
        self.open_ports[port] = set(families)
        self.server.relayed_port_opened(port, self.now)


class Client:
    """A TURN client: Firezone's by default, a standard one with another ``software``."""

    def __init__(
        self,
        relay: RelayUnderTest,
        endpoint: str = "203.0.113.5:51000",
        *,
        software: str = "snownet; session=00",
        expiry: int = EXPIRY,
        salt: str = SALT,
        secret: str = STAMP_SECRET,
    ) -> None:
        self.relay = relay
        self.endpoint = Endpoint.parse(endpoint)
        self.software = software
        self.username = credentials.username(expiry, salt)
        self.key = long_term_key(self.username, "firezone", credentials.password(expiry, secret, salt))
        self.nonce: str | None = None
        self._entropy = Entropy(int.from_bytes(hashlib.sha256(endpoint.encode()).digest()[:4], "big"))

    def request(self, method: Method, *attributes: Attribute, transaction_id: bytes | None = None) -> bytes:
        """An authenticated request with what we know now."""
        nonce = () if self.nonce is None else (Nonce(self.nonce),)
        block = (Software(self.software), Username(self.username), Realm("firezone"), *nonce)
        identifier = transaction_id or self._entropy(12)
        return encode(method, MessageClass.REQUEST, identifier, (*attributes, *block), integrity_key=self.key)

    def send(self, data: bytes | Run, *, tos: int = 0) -> list[Relayed | Output]:
        """Bytes to the relay."""
        return self.relay.from_client(self.endpoint, data, tos=tos)

    def call(self, method: Method, *attributes: Attribute) -> Message:
        """A request and its answer, which must be signed for us; learns the nonce first if there is none."""
        if self.nonce is None:
            self.nonce = attribute_of(self.answer(self.request(method, *attributes)), Nonce).value
        return self.answer(self.request(method, *attributes))

    def answer(self, request: bytes) -> Message:
        """The signed answer to a request."""
        message = only_answer(self.send(request), self.endpoint)
        assert message.transaction_id == request[8:20]
        assert message.verify_integrity(self.key), "Firezone's peers ignore unsigned answers"
        return message

    def allocate(self, *attributes: Attribute) -> int:
        """A relayed port; dual-stack without attributes."""
        wanted = attributes or (AdditionalAddressFamily(AddressFamily.IPV6),)
        message = self.call(Method.ALLOCATE, RequestedTransport(17), *wanted)
        assert message.message_class is MessageClass.SUCCESS, error_code(message)
        return attribute_of(message, XorRelayedAddress).endpoint.port

    def bind(self, number: int, peer: Endpoint) -> Message:
        """The answer to a ChannelBind."""
        return self.call(Method.CHANNEL_BIND, XorPeerAddress(peer), ChannelNumber(number))


def with_unknown(request: bytes, key: bytes, *numbers: int) -> bytes:
    """The request with empty attributes of these types, signed again."""
    unsigned = request[: -HEADER_BYTES - 4] + b"".join(number.to_bytes(2, "big") + bytes(2) for number in numbers)
    signed = unsigned + bytes.fromhex("00080014") + integrity_sha1(unsigned, len(unsigned), key)
    return signed[:2] + (len(signed) - HEADER_BYTES).to_bytes(2, "big") + signed[4:]


def _kept(output: Relayed) -> Relayed:
    transmit = output.transmit
    run = Run(memoryview(bytes(transmit.run.data)), transmit.run.segment_size)
    kept = Transmit(transmit.source, transmit.destination, run, transmit.tos)
    return output._replace(transmit=kept)


def only_answer(outputs: list[Relayed | Output], client: Endpoint) -> Message:
    """The one STUN message among the outputs."""
    answers = [output for output in outputs if isinstance(output, ToClient)]
    assert len(answers) == 1, outputs
    assert answers[0].transmit.destination == client
    return decode(answers[0].transmit.run.data)


def attribute_of(message: Message, kind: type[A]) -> A:
    """An attribute that must be there."""
    found = message.get(kind)
    assert found is not None, f"{kind.__name__} is missing"
    return found


def error_code(message: Message) -> int:
    """The code of an error answer, 0 for a success."""
    found = message.get(ErrorCodeAttribute)
    return 0 if found is None else found.code


def channel_message(number: int, payload: bytes) -> bytes:
    """A ChannelData message over UDP."""
    return channel_data.encode_header(number, len(payload)) + payload


def datagrams(output: Relayed | Output) -> list[bytes]:
    """What goes onto the wire."""
    assert isinstance(output, ToClient | ToPeer)
    return [bytes(segment) for segment in output.transmit.run.segments()]
