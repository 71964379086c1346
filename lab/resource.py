"""The resource behind the gateway: a web server with a page, bytes to download and a place to upload to.

``python -m lab.resource PORT``. ``GET /`` answers the page, ``GET /bytes/N`` N reproducible bytes, ``PUT /upload``
the length and the SHA-256 of what it got as JSON. It is a target for tests, reachable through the tunnel only.
"""

import hashlib
import json
import random
import socket
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

PAGE: Final = b"<!doctype html><title>app.internal</title><p>You reached the resource behind the gateway.\n"
# Reproducible on purpose.
_BLOCK: Final = random.Random(7).randbytes(1 << 20)
_READ_BYTES: Final = 1 << 18


def payload(length: int) -> Iterator[bytes]:
    """``length`` bytes, the same every time; the blocks differ, so that a swapped one changes the checksum."""
    for offset in range(0, length, len(_BLOCK)):
        numbered = offset.to_bytes(8) + _BLOCK[8:]
        yield numbered[: length - offset]


def payload_sha256(length: int) -> str:
    digest = hashlib.sha256()
    for block in payload(length):
        digest.update(block)
    return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # the base class fixes the name
        if self.path == "/":
            self._answer(PAGE, "text/html")
        elif self.path.startswith("/bytes/") and self.path[7:].isdecimal():
            length = int(self.path[7:])
            self._head(length, "application/octet-stream")
            for block in payload(length):
                self.wfile.write(block)
        else:
            self.send_error(404)

    def do_PUT(self) -> None:  # the base class fixes the name
        left = length = int(self.headers.get("Content-Length", "0"))
        digest = hashlib.sha256()
        while left and (chunk := self.rfile.read(min(left, _READ_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
        self._answer(json.dumps({"bytes": length - left, "sha256": digest.hexdigest()}).encode(), "application/json")

    def _answer(self, body: bytes, kind: str) -> None:
        self._head(len(body), kind)
        self.wfile.write(body)

    def _head(self, length: int, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """One line per request would be all that the log holds."""


class _Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def main() -> None:
    server = _Server(("::", int(sys.argv[1])), _Handler)
    print("listening", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
