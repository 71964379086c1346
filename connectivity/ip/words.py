"""What people read of a packet in an error or a log line."""

import struct
from typing import Final

from connectivity.ip.protocols import PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP

_U16: Final = struct.Struct(">H")
_UDP: Final = struct.Struct(">HHHH")
_TCP: Final = struct.Struct(">HHIIBBHHH")


def transport_words(data: memoryview, l4: int, protocol: int) -> str:
    """The fields of the transport header that begins at ``l4`` and is there."""
    if protocol == PROTOCOL_UDP:
        source, destination, length, checksum = _UDP.unpack_from(data, l4)
        return f"udp(source_port={source} destination_port={destination} length={length} checksum=0x{checksum:04x})"
    if protocol == PROTOCOL_TCP:
        source, destination, seq, ack, offset, flags, window, checksum, urgent = _TCP.unpack_from(data, l4)
        return (
            f"tcp(source_port={source} destination_port={destination} seq={seq} ack={ack} data_offset={offset >> 4} "
            f"flags=0x{flags:02x} window={window} checksum=0x{checksum:04x} urgent={urgent})"
        )
    if protocol in (PROTOCOL_ICMP, PROTOCOL_ICMPV6):
        (identifier,) = _U16.unpack_from(data, l4 + 4)
        name = "icmp" if protocol == PROTOCOL_ICMP else "icmpv6"
        return f"{name}(type={data[l4]} code={data[l4 + 1]} identifier={identifier})"
    return f"protocol({protocol})"
