"""Flows, and runs of packets that all belong to one.

A ``PacketRun`` is what policy, NAT and encryption decide about once: every packet in it passed the strict parser, has
the same flow key and the same TOS byte, and is cut to exactly its IP length; all are equally long but the last.
Only TCP and UDP packets without IPv4 options, fragmentation or IPv6 extension headers share a run; anything else is a
run of one.
"""

import struct
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from connectivity import accelerator
from connectivity.endpoint import IPAddress
from connectivity.ip.checksum import MODULUS
from connectivity.ip.packet import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, IpError, Packet, ip_length, parse, plain_key
from connectivity.ip.protocols import PROTOCOL_TCP, PROTOCOL_UDP
from connectivity.run import Run

FlowKey: TypeAlias = bytes

ECN_MASK: Final = 0b11
ECN_CE: Final = 0b11  # RFC 3168 §5

# How the keys of plain packets begin, by the kinds that an accelerator knows.
_PLAIN_KEYS: Final = (
    bytes((4, PROTOCOL_TCP)),
    bytes((4, PROTOCOL_UDP)),
    bytes((6, PROTOCOL_TCP)),
    bytes((6, PROTOCOL_UDP)),
)
_U32: Final = np.dtype("<u4")
_U16: Final = np.dtype("<u2")


class Flow(NamedTuple):
    """A flow key, decoded: for decisions that are made once per flow, not per packet."""

    version: int
    protocol: int
    source: IPAddress
    destination: IPAddress
    source_port: int
    destination_port: int

    @classmethod
    def from_key(cls, key: FlowKey) -> "Flow":
        """Decode a key: version, protocol, source, destination, source port, destination port, in network order.

        Ports are zero where the protocol has none; an ICMP echo has its identifier in both.
        """
        if key[0] == 4:
            source, destination, *ports = struct.unpack(">4s4sHH", key[2:])
            return cls(4, key[1], IPv4Address(source), IPv4Address(destination), *ports)
        source, destination, *ports = struct.unpack(">16s16sHH", key[2:])
        return cls(6, key[1], IPv6Address(source), IPv6Address(destination), *ports)

    @property
    def key(self) -> FlowKey:
        """The key again."""
        head = bytes((self.version, self.protocol)) + self.source.packed + self.destination.packed
        return head + struct.pack(">HH", self.source_port, self.destination_port)


class PacketRun(NamedTuple):
    """Packets of one flow with one TOS byte; ``run`` borrows the memory that it was cut from."""

    run: Run
    flow: FlowKey
    tos: int


def split_flows(run: Run, errors: list[IpError]) -> list[PacketRun]:
    """Cut decrypted packets into runs of one flow each, in their order, without copying where rows are whole.

    Args:
        run: rows of equal stride; rows may carry padding behind the packet.
        errors: what is wrong with each row that is no packet is appended here; the other rows go on.

    Returns:
        Runs that borrow ``run``'s memory (rows with padding are copied together when several follow each other).
    """
    data, stride = run
    size = len(data)
    runs: list[PacketRun] = []
    offset = 0
    helper = accelerator.current if size > stride else None  # a single packet is read as quickly here
    while offset < size:
        found = 0 if helper is None else helper.stretch(data, offset, stride)
        if found:
            packets, offset = _stretch(data, offset, stride, found)
            runs.append(packets)
            continue
        end = min(offset + stride, size)
        plain = plain_key(data, offset, end - offset)
        if plain is not None:
            if _is_alone(plain, data, end, min(stride, size - end)):
                runs.append(PacketRun(Run(data[offset:end], end - offset), *plain))
                offset = end
                continue
            version, protocol = plain[0][0], plain[0][1]
            l4 = IPV4_HEADER_BYTES if version == 4 else IPV6_HEADER_BYTES
            packet, mergeable = Packet(data[offset:end], version, protocol, l4), True
        else:
            try:
                packet = parse_padded(data[offset:end])
            except IpError as error:
                errors.append(error)
                offset = end
                continue
            mergeable = shares_runs(packet)
        if mergeable and end + stride <= size and len(packet.data) == stride:
            rows = _matching_rows(data, offset, stride, packet)
            end = offset + rows * stride
            taken, offset = _with_shorter_tail(data, offset, end, stride, packet)
        elif mergeable:
            taken, offset = _joined(data, end, stride, packet)
        else:
            taken, offset = packet.data, end
        runs.append(PacketRun(Run(taken, len(packet.data)), packet.key, packet.tos))
    return runs


def _is_alone(plain: tuple[FlowKey, int], data: memoryview, after: int, size: int) -> bool:
    """Whether what lies behind a plain packet cannot share a run with it; in doubt it may."""
    following = plain_key(data, after, size) if size else None
    return not size or (following is not None and following != plain)


def parse_padded(segment: memoryview) -> Packet:
    """Parse a packet that may have padding behind it, as WireGuard allows.

    Raises:
        IpError: as ``parse`` does.
    """
    length = ip_length(segment)
    return parse(segment[:length] if 0 < length < len(segment) else segment)


def shares_runs(packet: Packet) -> bool:
    """Whether a packet may share a run with others: plain TCP or UDP whose lengths agree."""
    data, version, protocol, l4, _ = packet
    if protocol != PROTOCOL_TCP and protocol != PROTOCOL_UDP:
        return False
    if version == 4:
        if l4 != IPV4_HEADER_BYTES or data[0] != 0x45 or data[6] & 0x3F or data[7]:
            return False
    elif l4 != IPV6_HEADER_BYTES or data[4] << 8 | data[5] != len(data) - IPV6_HEADER_BYTES:
        return False
    return protocol == PROTOCOL_TCP or data[l4 + 4] << 8 | data[l4 + 5] == len(data) - l4


def mark_congestion(packets: PacketRun) -> PacketRun:
    """Set "congestion experienced" on all packets, in place, if they are ECN-capable; else change nothing.

    The IPv4 header checksum follows by RFC 1624 equation 3; the traffic class of IPv6 is in no checksum.
    """
    if packets.tos & ECN_MASK not in (0b01, 0b10):
        return packets
    run, flow, tos = packets
    marked = tos | ECN_CE
    words: NDArray[np.uint16] = np.ndarray((run.segment_count, 6), _U16, run.data, 0, (run.segment_size, 2))
    if flow[0] == 4:
        words[:, 0] ^= (tos ^ marked) << 8
        words[:, 5] = (words[:, 5].astype(np.uint32) + (MODULUS - ((marked - tos) << 8))) % MODULUS
    else:
        words[:, 0] |= ECN_CE << 12
    return PacketRun(run, flow, marked)


def _stretch(data: memoryview, offset: int, stride: int, found: int) -> tuple[PacketRun, int]:
    """The packets that an accelerator has found from ``offset`` on, and where it goes on behind them."""
    rows, tail, length = found & 0xFFFF, found >> 16 & 0xFFFF, found >> 32 & 0xFFFF
    end = offset + rows * stride
    kind = found >> 56
    start, stop = (offset + 8, offset + 44) if kind & 2 else (offset + 12, offset + 24)
    key = _PLAIN_KEYS[kind] + bytes(data[start:stop])
    taken = data[offset : end + tail] if rows > 1 or tail else data[offset : offset + length]
    return PacketRun(Run(taken, length), key, found >> 48 & 0xFF), end + stride if tail else end


def _matching_rows(data: memoryview, offset: int, stride: int, first: Packet) -> int:
    """How many whole rows from ``offset`` on are packets of the flow of the first, equally long and as valid as it."""
    mask = _same_flow_mask(first.version, first.protocol)
    count = (len(data) - offset) // stride
    heads: NDArray[np.uint32] = np.ndarray((count, len(mask)), _U32, data, offset, (stride, 4))
    differences = (heads ^ heads[0]) & mask
    if not np.count_nonzero(differences):
        return count
    return int(differences.any(axis=1).argmax())


def _with_shorter_tail(data: memoryview, start: int, end: int, stride: int, first: Packet) -> tuple[memoryview, int]:
    """Take rows from ``start`` to ``end``, and the next one too if it is a shorter packet of the same flow."""
    after = min(end + stride, len(data))
    if after > end:
        tail = _same_flow(data[end:after], first)
        if tail is not None and len(tail.data) < stride:
            return data[start : end + len(tail.data)], after
    return data[start:end], end


def _joined(data: memoryview, end: int, stride: int, first: Packet) -> tuple[memoryview, int]:
    """Join rows that carry padding: packets of one flow, as long as the first, the last one possibly shorter."""
    size, length = len(data), len(first.data)
    parts = [first.data]
    while end < size and len(parts[-1]) == length:
        after = min(end + stride, size)
        packet = _same_flow(data[end:after], first)
        if packet is None or len(packet.data) > length:
            break
        parts.append(packet.data)
        end = after
    return (first.data if len(parts) == 1 else memoryview(bytearray().join(parts))), end


def _same_flow(segment: memoryview, first: Packet) -> Packet | None:
    """The packet in ``segment`` if it may share a run with ``first``; errors are left to whoever reads it alone."""
    try:
        packet = parse_padded(segment)
    except IpError:
        return None
    same = shares_runs(packet) and packet.tos == first.tos and packet.key == first.key
    return packet if same else None


@lru_cache(maxsize=4)
def _same_flow_mask(version: int, protocol: int) -> NDArray[np.uint32]:
    """The header bits in which rows must equal a strictly parsed first row to be as valid as it is."""
    if version == 4:
        # version, IHL, TOS, total length | fragmentation | protocol | addresses
        mask = b"\xff\xff\xff\xff" + b"\0\0\x3f\xff" + b"\0\xff\0\0" + b"\xff" * 8
    else:
        # version and traffic class | payload length, next header | addresses
        mask = b"\xff\xf0\0\0" + b"\xff\xff\xff\0" + b"\xff" * 32
    mask += b"\xff" * 4  # ports
    if protocol == PROTOCOL_TCP:
        mask += b"\0" * 8 + b"\xf0\0\0\0"  # data offset
    else:
        mask += b"\xff\xff\0\0"  # length
    return np.frombuffer(mask, _U32)
