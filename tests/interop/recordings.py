"""Recorded conversations of Firezone's own programs: what they and the servers before them said, frame by frame.

Each of the four (two generations, each once with a direct path and once relayed) is a folder with ``portal.jsonl``
(what the control server was told and said), ``portal.pcap`` (the same as TCP) and ``wire.pcap`` (UDP in the middle of
the network). They are read where they are and are no part of the project.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from tests.programs import require_recordings

PORTAL: Final = Endpoint.parse("172.28.0.2:8081")
RELAY_PORT: Final = 3478
_MAGIC_MICROSECONDS: Final = 0xA1B2C3D4
_ETHERNET: Final = 1
_TCP, _UDP = 6, 17
_HANDSHAKE_BYTES: Final = {1: 148, 2: 92, 3: 64}  # WireGuard's messages of fixed length, by type
_MAGIC_COOKIE: Final = bytes.fromhex("2112a442")
_TEXT_FRAME: Final = 1
_CLOSE_FRAME: Final = 8


class Event(NamedTuple):
    """A line of ``portal.jsonl``: ``what`` is connect, from, to or gone; ``kind`` the component's."""

    at: int  # nanoseconds since the epoch
    what: str
    kind: str
    event: str
    payload: Any
    query: Mapping[str, str]
    user_agent: str


class Datagram(NamedTuple):
    """A UDP datagram on the wire."""

    at: int
    source: Endpoint
    destination: Endpoint
    payload: bytes


@dataclass(slots=True)
class Conversation:
    """One TCP connection to the portal: the request line and headers, then the text frames, oldest first."""

    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    frames: list[tuple[bool, str]] = field(default_factory=list)  # (whether the component said it, text)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.path).query))

    @property
    def kind(self) -> str:
        """Which component it is."""
        return self.path.split("/")[1]


def portal_events(name: str) -> list[Event]:
    """What the control server was told and said."""
    lines = map(json.loads, (require_recordings() / name / "portal.jsonl").read_text().splitlines())
    return [
        Event(
            round(line["t"] * SECOND),
            line["dir"],
            line["kind"],
            line.get("event", ""),
            line.get("payload"),
            line.get("q", {}),
            line.get("ua", ""),
        )
        for line in lines
        if line["dir"] != "ids"
    ]


@cache
def datagrams(name: str) -> tuple[Datagram, ...]:
    """All UDP datagrams of the wire."""
    found = []
    for at, protocol, source, destination, segment in _packets(require_recordings() / name / "wire.pcap"):
        if protocol == _UDP:
            source_port, destination_port, length, _ = struct.unpack_from(">HHHH", segment)
            ends = _endpoint(source, source_port), _endpoint(destination, destination_port)
            found += [Datagram(at, *ends, payload) for payload in _segments(segment[8:length])]
    return tuple(found)


def conversations(name: str) -> list[Conversation]:
    """All connections to the portal, in the order in which they began."""
    streams: dict[Endpoint, tuple[dict[int, bytes], dict[int, bytes]]] = {}  # of the component and of the portal
    for _, protocol, source, destination, segment in _packets(require_recordings() / name / "portal.pcap"):
        if protocol != _TCP:
            continue
        source_port, destination_port, sequence, _, offset = struct.unpack_from(">HHIIB", segment)
        ends = (_endpoint(source, source_port), _endpoint(destination, destination_port))
        says = ends[1] == PORTAL
        pieces = streams.setdefault(ends[0] if says else ends[1], ({}, {}))[0 if says else 1]
        if content := segment[(offset >> 4) * 4 :]:
            pieces[sequence] = max(content, pieces.get(sequence, b""), key=len)
    return [_conversation(_joined(told), _joined(said)) for told, said in streams.values() if told]


def _packets(path: Path) -> Iterator[tuple[int, int, bytes, bytes, bytes]]:
    """Time, protocol, source, destination and transport part of each IP packet that is whole."""
    data = path.read_bytes()
    magic, _, _, _, _, _, link = struct.unpack_from("<IHHiIII", data)
    assert (magic, link) == (_MAGIC_MICROSECONDS, _ETHERNET), "another kind of capture"
    at = 24
    while at < len(data):
        seconds, micros, stored, original = struct.unpack_from("<IIII", data, at)
        assert stored == original, "a packet was cut"
        packet = data[at + 30 : at + 16 + stored]  # behind the record's and the Ethernet header
        at += 16 + stored
        time = seconds * SECOND + micros * 1000
        match packet[0] >> 4:
            case 4:
                total, header = int.from_bytes(packet[2:4], "big"), (packet[0] & 15) * 4
                assert not int.from_bytes(packet[6:8], "big") & 0x3FFF, "a fragment"
                yield time, packet[9], packet[12:16], packet[16:20], packet[header:total]
            case 6:
                total = 40 + int.from_bytes(packet[4:6], "big")
                yield time, packet[6], packet[8:24], packet[24:40], packet[40:total]
            case _:
                pass  # ARP


def _segments(payload: bytes) -> Iterator[bytes]:
    """The datagrams of a run: the capture saw what a sender handed to UDP_SEGMENT before it was cut.

    STUN, channel data and handshakes tell their length; WireGuard's data messages do not and stay as they are.
    """
    while len(payload) > 4:
        number, length = struct.unpack_from(">HH", payload)
        if number >> 14 == 1:
            size = 4 + length
        elif payload[4:8] == _MAGIC_COOKIE:
            size = 20 + length
        else:
            size = _HANDSHAKE_BYTES.get(payload[0], len(payload))
        yield payload[:size]
        payload = payload[size:]


def _endpoint(address: bytes, port: int) -> Endpoint:
    return Endpoint(ip_address(address), port)


def _joined(pieces: dict[int, bytes]) -> bytes:
    """The bytes of one direction; what was sent again counts once. No stream here wraps its numbers."""
    joined = bytearray()
    first = min(pieces, default=0)
    for sequence in sorted(pieces):
        gap = sequence - first - len(joined)
        assert gap <= 0, "the capture lost a segment"
        joined += pieces[sequence][-gap:] if gap else pieces[sequence]
    return bytes(joined)


def _conversation(told: bytes, said: bytes) -> Conversation:
    """Frames alternate as they were sent within each direction; between the directions the order is that of kind."""
    head, _, rest = told.partition(b"\r\n\r\n")
    request, *lines = head.decode().split("\r\n")
    _, path, _ = request.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    frames = [(True, text) for text in _frames(rest)]
    frames += [(False, text) for text in _frames(said.partition(b"\r\n\r\n")[2])]
    return Conversation(path, headers, frames)


def _frames(data: bytes) -> Iterator[str]:
    """The text frames of one direction (RFC 6455 section 5.2). None here is fragmented."""
    at = 0
    while at + 2 <= len(data):
        final, opcode = data[at] >> 7, data[at] & 15
        masked, length = data[at + 1] >> 7, data[at + 1] & 0x7F
        at += 2
        extra = {126: 2, 127: 8}.get(length, 0)
        if extra:
            length = int.from_bytes(data[at : at + extra], "big")
            at += extra
        mask = data[at : at + 4] if masked else bytes(4)
        at += 4 * masked
        content = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data[at : at + length]))
        assert final, "a fragmented frame"
        at += length
        if opcode == _TEXT_FRAME:
            yield content.decode()
        else:
            assert opcode >= _CLOSE_FRAME, "neither text nor a control frame"
