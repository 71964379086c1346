"""What takes bytes from strangers, as functions of bytes: each may be fed anything and raises only for a defect.

``TARGETS`` maps a name to a target and to examples to start from. Coverage-guided: ``make fuzz``; a short run of each
is part of the tests.
"""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from connectivity.endpoint import Endpoint
from connectivity.run import Run
from connectivity.stun import (
    ChannelNumber,
    Data,
    DecodeError,
    EvenPort,
    Lifetime,
    MessageClass,
    Method,
    RequestedTransport,
    XorPeerAddress,
    decode,
    encode,
)
from connectivity.turn import channel_data
from relay.core.channel_runs import SCRATCH_BYTES, ChannelRun, Malformed, frame, frame_padded, split, strip
from relay.core.peers import PeerPolicy, parse_rules
from relay.core.proxy_protocol import MOST_BYTES, PREFIX_BYTES, ProxyHeaderError, client_of, length_behind
from relay.core.stream import Lost, Stream
from tests.fuzz.server import RelayUnderFire

REQUESTS: Final = (
    encode(Method.BINDING, MessageClass.REQUEST, bytes(12), (), fingerprint=True),
    encode(
        Method.ALLOCATE, MessageClass.REQUEST, bytes(12), (RequestedTransport(17), EvenPort(True)), integrity_key=b"k"
    ),
    encode(Method.REFRESH, MessageClass.REQUEST, bytes(12), (Lifetime(0),)),
    encode(
        Method.CHANNEL_BIND,
        MessageClass.REQUEST,
        bytes(12),
        (ChannelNumber(0x4000), XorPeerAddress(Endpoint(IPv6Address("2001:db8::1"), 9))),
    ),
    encode(
        Method.SEND,
        MessageClass.INDICATION,
        bytes(12),
        (XorPeerAddress(Endpoint(IPv4Address("198.51.100.7"), 1)), Data(b"data")),
    ),
)
MESSAGE: Final = channel_data.encode_header(0x4000, 5) + b"data!"


class Target(NamedTuple):
    """A function of any bytes, and bytes that get far in it."""

    run: Callable[[bytes], None]
    examples: tuple[bytes, ...]


def fuzz_stun(data: bytes) -> None:
    """A message decodes, or ``DecodeError`` says why not; what decoded encodes to what decodes to the same."""
    try:
        message = decode(data)
    except DecodeError:
        return
    message.verify_fingerprint()
    message.verify_integrity(b"key")
    message.verify_integrity_sha256(b"key")
    again = decode(encode(message.method, message.message_class, message.transaction_id, message.attributes))
    assert again.attributes == message.attributes


def fuzz_channel_data(data: bytes) -> None:
    """A run cut into parts loses no byte of the payloads, whatever its segment size (the first two bytes)."""
    size, body = int.from_bytes(data[:2], "big"), data[2:]
    if not 0 < size <= len(body) <= 0xFFFF:
        return
    scratch, framed = memoryview(bytearray(SCRATCH_BYTES)), memoryview(bytearray(SCRATCH_BYTES))
    for part in split(Run(memoryview(body), size)):
        if isinstance(part, Malformed) or not isinstance(part, ChannelRun):
            continue
        payloads = strip(part, scratch)
        assert len(payloads.data) == (part.messages - 1) * part.length + part.last_length
        if payloads.data:
            again = b"".join(bytes(message[4:]) for message in frame(payloads, part.number, framed).segments())
            assert again == payloads.data
            assert len(frame_padded(payloads, part.number, framed).data) % 4 == 0


def fuzz_stream(data: bytes) -> None:
    """Bytes of a connection give the same parts however they are cut (the first byte says where)."""
    if not data:
        return
    step, body = data[0] + 1, data[1:]
    pieces = [body[start : start + step] for start in range(0, len(body), step)]
    assert b"".join(_parts([body])) == b"".join(_parts(pieces))


def _parts(pieces: list[bytes]) -> Iterator[bytes]:
    stream = Stream()
    for piece in pieces:
        for part in stream.feed(memoryview(piece)):
            if isinstance(part, Lost):
                yield b"lost"
            else:
                yield bytes(part.data) if isinstance(part, ChannelRun) else bytes(part)
        assert len(stream) <= 0xFFFF + 24, "no more than one message is kept"


def fuzz_peer_rule(data: bytes) -> None:
    """A rule reads back as it is written, and opens nothing that no rule may open."""
    try:
        rules = parse_rules(data.decode("utf-8", "replace"))
    except ValueError:
        return
    assert all(parse_rules(str(rule)) == (rule,) for rule in rules)
    policy = PeerPolicy(under_portal=False, allow=rules)
    for ip in (rules[0].network[0], rules[-1].network[-1]):
        policy.permission_refusal(ip)
        policy.refusal(Endpoint(ip, rules[0].highest_port))
    for text in ("0.0.0.0", "255.255.255.255", "224.0.0.1"):
        assert policy.refusal(Endpoint(IPv4Address(text), 80)) is not None
    for text in ("::", "ff02::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1"):
        assert policy.refusal(Endpoint(IPv6Address(text), 80)) is not None


def fuzz_proxy_header(data: bytes) -> None:
    """A proxy's header names a client, or the proxy itself, or is refused; never more is asked for than a bound."""
    prefix, rest = data[:PREFIX_BYTES].ljust(PREFIX_BYTES, b"\0"), data[PREFIX_BYTES:]
    try:
        size = length_behind(prefix)
        assert size <= MOST_BYTES
        client = client_of(prefix, rest[:size])
    except ProxyHeaderError:
        return
    assert client is None or (client.port and not client.ip.is_unspecified)


def fuzz_server(data: bytes) -> None:
    """The whole relay with clients, strangers, peers, connections and time, as the bytes will have it."""
    RelayUnderFire(data).run()


def _script(*steps: tuple[int, int, bytes]) -> bytes:
    return b"".join(bytes([kind, who]) + len(body).to_bytes(2, "big") + body for kind, who, body in steps)


TARGETS: Final = {
    "stun": Target(fuzz_stun, REQUESTS),
    "channel_data": Target(
        fuzz_channel_data, (b"\0\x09" + MESSAGE * 4, b"\0\x0c" + (MESSAGE + bytes(3)) * 3, b"\0\x24" + MESSAGE * 4)
    ),
    "stream": Target(fuzz_stream, (b"\x06" + REQUESTS[0] + MESSAGE + bytes(3) + REQUESTS[3] + MESSAGE + bytes(3),)),
    "peer_rule": Target(fuzz_peer_rule, (b"10.0.0.0/8", b"10.0.0.0/8:1-65535", b"[fd00::/8]:53", b"::1", b"0.0.0.0/0")),
    "proxy_header": Target(
        fuzz_proxy_header,
        (
            bytes.fromhex("0d0a0d0a000d0a515549540a2111000ccb007105c0000207c73801bb"),
            bytes.fromhex("0d0a0d0a000d0a515549540a20000000"),
            bytes.fromhex("0d0a0d0a000d0a515549540a21210029") + bytes(range(1, 37)) + b"\x01\x00\x02h2",
        ),
    ),
    "server": Target(
        fuzz_server,
        (
            _script((0, 0, REQUESTS[0]), (0, 1, REQUESTS[1]), (2, 0, MESSAGE), (3, 1, MESSAGE), (4, 0, b"\0\0\x01")),
            _script((1, 0, REQUESTS[1]), (1, 0, REQUESTS[3]), (0, 0, REQUESTS[4]), (0, 0, MESSAGE), (2, 0, b"answer")),
            _script(
                (1, 1, REQUESTS[1]), (1, 2, REQUESTS[1]), (5, 0, b"\x01"), (1, 1, REQUESTS[2]), (4, 0, b"\x7f\0\0")
            ),
        ),
    ),
}
