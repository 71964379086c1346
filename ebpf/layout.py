"""The bytes of ``include/abi.h``: map keys, values and configuration, packed and unpacked.

Addresses, ports, selectors and channels are big-endian as on the wire; counts, times and indices are in host order. An
IPv4 address in a four-word field is its four bytes and twelve zeros. Sizes are asserted in C and by tests.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final, NamedTuple

import numpy as np

from connectivity.endpoint import Endpoint, IPAddress

MAX_OWN_ADDRESSES: Final = 8
MAX_LISTEN_PORTS: Final = 8
MAX_NEXT_HOPS: Final = 256
EGRESS_SLOTS: Final = 8
FLAG_FROM_PEER: Final = 1

CONFIG_BYTES: Final = 216
FLOW_BYTES: Final = 76
KEY_BYTES: Final = {4: 8, 6: 20}
NEXT_HOP_BYTES: Final = 20
BUCKETS: Final = 16384
WHOLE_RELAY: Final = 0  # the bucket that everything is taken from
COUNTER: Final = struct.Struct("=QQ")
BUCKET: Final = struct.Struct("=QQQ")
# Native, aligned words: an assignment to one field is one store, which a running program sees whole or not at all.
BINDING: Final = np.dtype(
    [
        ("expires_at", np.uint64),
        ("bucket", np.uint32),
        ("unused", np.uint32),
        ("to_peer", np.uint64, 2),
        ("to_client", np.uint64, 2),
        ("padding", np.uint64, 2),
    ]
)
_FLOW: Final = struct.Struct("=16s2s2s2s2s16s16s2sHIII2sH")
_NEXT_HOP: Final = struct.Struct("=II6s6s")


class Counter(NamedTuple):
    """Packets, and message bytes where they were forwarded, else frame bytes."""

    packets: int = 0
    bytes: int = 0

    def __add__(self, other: object) -> "Counter":
        if not isinstance(other, Counter):
            return NotImplemented
        return Counter(self.packets + other.packets, self.bytes + other.bytes)


class FlowKey(NamedTuple):
    """Who sent it, and the channel number or relayed port that it is addressed to."""

    remote: Endpoint
    selector: int

    def pack(self) -> bytes:
        """8 bytes for IPv4, 20 for IPv6."""
        return self.remote.ip.packed + _be16(self.remote.port) + _be16(self.selector)


@dataclass(frozen=True, slots=True)
class FlowValue:
    """How a packet leaves. ``source`` None: from the address it was sent to. ``channel`` 0: as plain UDP.

    ``sender`` and ``receiver`` are the slots of the clients' bindings that it is relayed by; 0 where a peer is there.
    ``listen_port`` is the one that the sending client talks to, 0 where a peer sends.
    """

    target: Endpoint
    source_port: int
    channel: int
    sender: int = 0
    receiver: int = 0
    source: IPAddress | None = None
    next_hop: int = 0
    listen_port: int = 0

    def pack(self, key: FlowKey) -> bytes:
        """The map value for ``key``, which it echoes."""
        return _FLOW.pack(
            _four_words(key.remote.ip),
            _be16(key.remote.port),
            _be16(key.selector),
            _be16(self.source_port),
            _be16(self.target.port),
            _four_words(self.target.ip),
            bytes(16) if self.source is None else _four_words(self.source),
            _be16(self.channel),
            self.target.ip.version,
            self.next_hop,
            self.sender,
            self.receiver,
            _be16(self.listen_port),
            0,
        )


@dataclass(frozen=True, slots=True)
class NextHop:
    """A resolved neighbour: where a frame goes, and out of which interface."""

    ifindex: int
    mtu: int
    destination_mac: bytes
    source_mac: bytes

    def pack(self) -> bytes:
        """The value in the map of next hops."""
        return _NEXT_HOP.pack(self.ifindex, self.mtu, self.destination_mac, self.source_mac)


def pack_config(
    *,
    listen_ports: Sequence[int],
    from_peer: bool,
    own: Sequence[IPAddress],
    egress: Sequence[int],
    probe: int = 0,
) -> bytes:
    """The program's configuration; ``own`` addresses and ``listen_ports`` beyond 8 are left to user space."""
    ipv4 = [address.packed for address in own if isinstance(address, IPv4Address)][:MAX_OWN_ADDRESSES]
    ipv6 = [address.packed for address in own if not isinstance(address, IPv4Address)][:MAX_OWN_ADDRESSES]
    slots = [*egress, *[0] * (EGRESS_SLOTS - len(egress))]
    return b"".join(
        (
            b"".join(map(_be16, listen_ports[:MAX_LISTEN_PORTS])).ljust(2 * MAX_LISTEN_PORTS, b"\0"),
            struct.pack("=II8I", FLAG_FROM_PEER if from_peer else 0, probe, *slots),
            b"".join(ipv4).ljust(4 * MAX_OWN_ADDRESSES, b"\0"),
            b"".join(ipv6).ljust(16 * MAX_OWN_ADDRESSES, b"\0"),
        )
    )


def _four_words(address: IPAddress) -> bytes:
    return address.packed.ljust(16, b"\0")


def _be16(value: int) -> bytes:
    return value.to_bytes(2, "big")
