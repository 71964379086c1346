"""A name server for the lab, so that programs that look names up get an answer at once instead of a time-out.

``python -m lab.nameserver ADDRESS``. It knows the lab's few names (A and AAAA) and denies all others; UDP and TCP,
RFC 1035, one question per query.
"""

import socketserver
import struct
import sys
import threading
from ipaddress import ip_address
from typing import Final

from lab.plan import PORTAL, RESOURCE

NAMES: Final = {
    "portal.lab": (PORTAL.address, PORTAL.address6),
    "app.lab": (RESOURCE.address, RESOURCE.address6),
}
_PORT: Final = 53
_HEADER: Final = struct.Struct("!HHHHHH")
_TYPES: Final = {1: 4, 28: 6}  # A and AAAA: the IP version that answers
_AUTHORITATIVE_ANSWER: Final = 0x8580  # QR, AA, RD, RA
_NAME_ERROR: Final = 3
_TTL_SECONDS: Final = 60


def answer(query: bytes) -> bytes | None:
    """The response, or None for what is no query with a question."""
    if len(query) < _HEADER.size:
        return None
    query_id, flags, questions, _, _, _ = _HEADER.unpack_from(query)
    parsed = _question(query)
    if flags & 0x8000 or questions != 1 or parsed is None:
        return None
    name, kind, end = parsed
    known = NAMES.get(name)
    version = _TYPES.get(kind)
    records = b""
    if known is not None and version is not None:
        address = ip_address(known[version == 6]).packed
        # A pointer to the question's name, then type, class IN, lifetime and data.
        records = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, _TTL_SECONDS, len(address)) + address
    code = _AUTHORITATIVE_ANSWER | (0 if known is not None else _NAME_ERROR)
    head = _HEADER.pack(query_id, code, 1, 1 if records else 0, 0, 0)
    return head + query[_HEADER.size : end] + records


def _question(query: bytes) -> tuple[str, int, int] | None:
    """Name in lower case, type, and where the question ends."""
    labels = []
    offset = _HEADER.size
    while offset < len(query) and (length := query[offset]):
        if length > 63:
            return None  # a pointer has no place in a question
        labels.append(query[offset + 1 : offset + 1 + length].decode("ascii", "replace").lower())
        offset += 1 + length
    if offset + 5 > len(query):
        return None
    (kind,) = struct.unpack_from("!H", query, offset + 1)
    return ".".join(labels), kind, offset + 5


class _Datagrams(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        query, reply_socket = self.request
        found = answer(query)
        if found is not None:
            reply_socket.sendto(found, self.client_address)


class _Stream(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while len(head := self.rfile.read(2)) == 2:
            found = answer(self.rfile.read(int.from_bytes(head)))
            if found is None:
                return
            self.wfile.write(len(found).to_bytes(2) + found)


class _StreamServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main() -> None:
    listen = (sys.argv[1], _PORT)
    stream = _StreamServer(listen, _Stream)
    threading.Thread(target=stream.serve_forever, daemon=True).start()
    datagrams = socketserver.UDPServer(listen, _Datagrams)
    print("listening", flush=True)
    datagrams.serve_forever()


if __name__ == "__main__":
    main()
