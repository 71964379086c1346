"""Address translation of whole runs: one decision, one pass, in place.

All packets of a run share the words that change, so each checksum changes by the same amount (RFC 1624 §3) and no
payload byte is read. A checksum that was wrong stays wrong: translation never repairs a packet.

``rewrite`` works out what changes for each run; a ``Rewriting`` has worked it out once for all of a flow.
"""

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from connectivity import accelerator
from connectivity.endpoint import IPAddress
from connectivity.ip.checksum import CHECKSUM_OFFSET, MODULUS, ones_sum
from connectivity.ip.flow import FlowKey, PacketRun
from connectivity.ip.packet import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, TCP_FLAGS_OFFSET, parse
from connectivity.ip.protocols import PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP
from connectivity.run import Run

_WORD: Final = np.dtype("<u2")
_IPV4_CHECKSUM_OFFSET: Final = 10
_IDENTIFIER_OFFSET: Final = 4  # of an ICMP echo, from the start of its header
_PLAIN_IPV4: Final = 0x45
_WORD_OF_ONE: Final = struct.Struct("<H")


def rewrite(
    packets: PacketRun,
    *,
    source: IPAddress | None = None,
    destination: IPAddress | None = None,
    source_port: int | None = None,
    destination_port: int | None = None,
) -> PacketRun:
    """Replace addresses and ports in every packet of a run, in place.

    The identifier of an ICMP echo counts as both ports: either argument sets it. Ports of other protocols are ignored.

    Args:
        packets: writable; addresses given must be of its family. A fragment behind the first has no ports, and its
            datagram's checksum is in the first.

    Returns:
        The same memory under its new flow key.
    """
    run, _, tos = packets
    data, stride = run
    rows = run.segment_count
    first = parse(data[:stride])
    version, l4 = first.version, first.l4
    protocol = first.protocol if not first.is_later_fragment else None  # there is no transport header then
    at, size = (12, 4) if version == 4 else (8, 16)
    addresses = 0
    for offset, address in ((at, source), (at + size, destination)):
        if address is not None:
            addresses += _replace(data, stride, rows, offset, address.packed)
    ports = 0
    if protocol in (PROTOCOL_TCP, PROTOCOL_UDP):
        for offset, port in ((l4, source_port), (l4 + 2, destination_port)):
            if port is not None:
                ports += _replace(data, stride, rows, offset, port.to_bytes(2, "big"))
    elif first.is_echo:
        identifier = source_port if source_port is not None else destination_port
        if identifier is not None:
            ports += _replace(data, stride, rows, l4 + _IDENTIFIER_OFFSET, identifier.to_bytes(2, "big"))
    if version == 4 and addresses:
        _adjust(data, stride, rows, _IPV4_CHECKSUM_OFFSET, addresses)
    if protocol in (PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_ICMPV6):
        ports += addresses  # by way of the pseudo-header
    if ports and protocol in (PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_ICMP, PROTOCOL_ICMPV6):
        may_lack = protocol == PROTOCOL_UDP and version == 4
        _adjust(
            data, stride, rows, l4 + CHECKSUM_OFFSET[protocol], ports, udp=protocol == PROTOCOL_UDP, may_lack=may_lack
        )
    return PacketRun(run, parse(data[:stride]).key, tos)


def tcp_flags(packets: PacketRun) -> int:
    """The flags of all packets of a TCP run, OR'ed; 0 of what has none."""
    data, stride = packets.run
    first = parse(data[:stride])
    if first.protocol != PROTOCOL_TCP or first.is_later_fragment:
        return 0
    l4 = first.l4
    flags: NDArray[np.uint8] = np.ndarray(
        (packets.run.segment_count,), np.uint8, data, l4 + TCP_FLAGS_OFFSET, (stride,)
    )
    return int(np.bitwise_or.reduce(flags))


class Rewriting:
    """What a translation does to each packet of one TCP or UDP flow with a plain header.

    Addresses and ports lie in one piece there, and both checksums change by constants.
    """

    __slots__ = (
        "_addresses",
        "_both",
        "_changes",
        "_checksums",
        "_is_udp",
        "_may_lack",
        "_ports",
        "_row",
        "after",
        "before",
    )

    def __init__(self, before: FlowKey, after: FlowKey) -> None:
        """For packets of the flow ``before``, which become those of ``after``: alike but for addresses and ports."""
        version, protocol = before[0], before[1]
        ports = IPV4_HEADER_BYTES if version == 4 else IPV6_HEADER_BYTES
        growth = ones_sum(after[2:]) - ones_sum(before[2:])
        of_header = ones_sum(after[2:-4]) - ones_sum(before[2:-4])
        self.before = before
        self.after = after
        self._addresses = 12 if version == 4 else 8
        self._ports = ports
        self._row = np.frombuffer(after[2:], np.uint8)
        self._is_udp = protocol == PROTOCOL_UDP
        self._may_lack = self._is_udp and version == 4
        transport = ports + CHECKSUM_OFFSET[protocol], -growth % MODULUS
        header = (_IPV4_CHECKSUM_OFFSET, -of_header % MODULUS)
        self._checksums = (header, transport) if version == 4 else (transport,)
        self._both = header[1], transport[1]
        self._changes = np.array([change for _, change in self._checksums], np.uint32)

    @classmethod
    def fits(cls, packets: PacketRun) -> bool:
        """Whether all packets of the run have a plain header and a transport that such a rewriting knows."""
        data, protocol = packets.run.data, packets.flow[1]
        if protocol != PROTOCOL_TCP and protocol != PROTOCOL_UDP:
            return False
        return data[9] == protocol and data[0] == _PLAIN_IPV4 if packets.flow[0] == 4 else data[6] == protocol

    def apply(self, packets: PacketRun) -> PacketRun:
        """Translate a run as ``rewrite`` does, for one of the flow that ``fits``."""
        run, _, tos = packets
        data, stride = run
        helper = accelerator.current
        if helper is not None and helper.rewrite(data, stride, self.after, self._both):
            return PacketRun(run, self.after, tos)
        if len(data) <= stride:
            data[self._addresses : self._ports + 4] = self.after[2:]
            for offset, change in self._checksums:
                (field,) = _WORD_OF_ONE.unpack_from(data, offset)
                changed = (field + change) % MODULUS
                if self._is_udp and offset != _IPV4_CHECKSUM_OFFSET:
                    changed = field if self._may_lack and not field else changed or MODULUS
                _WORD_OF_ONE.pack_into(data, offset, changed)
            return PacketRun(run, self.after, tos)
        rows = run.segment_count
        row = self._row
        np.ndarray((rows, len(row)), np.uint8, data, self._addresses, (stride, 1))[:] = row
        first, last = self._checksums[0][0], self._checksums[-1][0]
        fields: NDArray[np.uint16] = np.ndarray(
            (rows, len(self._checksums)), _WORD, data, first, (stride, last - first or stride)
        )
        changes = (fields + self._changes) % MODULUS
        if self._is_udp:
            transport, known = changes[:, -1], fields[:, -1]
            transport[transport == 0] = MODULUS
            if self._may_lack:
                transport[known == 0] = 0
        fields[:] = changes
        return PacketRun(run, self.after, tos)

    def tcp_flags(self, run: Run) -> int:
        """The flags of all packets, OR'ed."""
        data, stride = run
        at = self._ports + TCP_FLAGS_OFFSET
        if len(data) <= stride:
            return data[at]
        helper = accelerator.current
        if helper is not None:
            found = helper.any_of(data, stride, at)
            if found >= 0:
                return found
        flags: NDArray[np.uint8] = np.ndarray((run.segment_count,), np.uint8, data, at, (stride,))
        return int(np.bitwise_or.reduce(flags))


def _replace(data: memoryview, stride: int, rows: int, offset: int, value: bytes) -> int:
    """Write ``value`` at ``offset`` of every row; returns by how much each row's sum grew (not reduced)."""
    before = ones_sum(data[offset : offset + len(value)])
    field: NDArray[np.uint8] = np.ndarray((rows, len(value)), np.uint8, data, offset, (stride, 1))
    field[:] = np.frombuffer(value, np.uint8)
    return ones_sum(value) - before


def _adjust(
    data: memoryview, stride: int, rows: int, offset: int, growth: int, *, udp: bool = False, may_lack: bool = False
) -> None:
    """Let the checksum at ``offset`` of every row follow a sum that grew by ``growth``."""
    field: NDArray[np.uint16] = np.ndarray((rows,), _WORD, data, offset, (stride,))
    changed = (field.astype(np.uint32) + (-growth % MODULUS)) % MODULUS
    if udp:
        changed[changed == 0] = MODULUS
    if may_lack:
        changed[field == 0] = 0
    field[:] = changed
