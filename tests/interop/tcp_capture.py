"""A capture of TCP connections that never were: what tshark has decrypted, for tshark to read as TURN.

Its dissector of STUN takes no part in TLS, so what was said there is written down as if it had been said over TCP.
"""

import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_FILE_HEADER: Final = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 228)  # of bare IPv4 packets
_SERVER: Final = bytes((192, 0, 2, 1))
_CLIENT: Final = bytes((192, 0, 2, 2))
_SERVER_PORT: Final = 3478
_FIRST_CLIENT_PORT: Final = 20_000
_MOST: Final = 60_000  # bytes of one packet


def write_capture(path: Path, said: Iterable[tuple[int, bool, bytes]]) -> None:
    """Of each piece the number of its connection, whether the server said it, and the bytes."""
    sent: Counter[tuple[int, bool]] = Counter()
    with path.open("wb") as file:
        file.write(_FILE_HEADER)
        for connection, by_server, content in said:
            for start in range(0, len(content), _MOST):
                piece = content[start : start + _MOST]
                packet = _packet(connection, by_server, sent[connection, by_server], sent[connection, not by_server])
                sent[connection, by_server] += len(piece)
                size = len(packet) + len(piece)
                whole = packet[:2] + size.to_bytes(2, "big") + packet[4:] + piece
                file.write(struct.pack("=IIII", 0, 0, size, size) + whole)


def _packet(connection: int, by_server: bool, sequence: int, acknowledged: int) -> bytes:
    """The headers, without total length and checksums."""
    ends = [(_CLIENT, _FIRST_CLIENT_PORT + connection), (_SERVER, _SERVER_PORT)]
    (source, source_port), (target, target_port) = reversed(ends) if by_server else ends
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, 6, 0, source, target)
    numbers = (sequence + 1, acknowledged + 1)
    return ip + struct.pack("!HHIIBBHHH", source_port, target_port, *numbers, 0x50, 0x18, 0xFFFF, 0, 0)
