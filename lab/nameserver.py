"""A name server for the lab, so that programs that look names up get an answer at once instead of a time-out.

``python -m lab.nameserver ADDRESS``. It knows the lab's few names (A and AAAA, and a service of the resource as SRV and
TXT) and denies all others, over UDP and TCP.
"""

import socketserver
import sys
import threading
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from lab.plan import APP_NAME, PORTAL, RESOURCE

ZONE: Final = {
    ("portal.lab.", "A"): PORTAL.address,
    ("portal.lab.", "AAAA"): PORTAL.address6,
    (f"{APP_NAME}.", "A"): RESOURCE.address,
    (f"{APP_NAME}.", "AAAA"): RESOURCE.address6,
    (f"{APP_NAME}.", "TXT"): '"the resource behind the gateway"',
    (f"_http._tcp.{APP_NAME}.", "SRV"): f"0 0 80 {APP_NAME}.",
}
_NAMES: Final = frozenset(name for name, _ in ZONE)
_PORT: Final = 53
_TTL_SECONDS: Final = 60


def answer(query: bytes) -> bytes | None:
    """The response, or None for what is no query with a question."""
    try:
        asked = dns.message.from_wire(query)
        said = dns.message.make_response(asked, recursion_available=True)
        (question,) = asked.question
    except (dns.exception.DNSException, ValueError):  # ValueError: not one question
        return None
    name = question.name.to_text().lower()
    record = ZONE.get((name, dns.rdatatype.to_text(question.rdtype)))
    said.flags |= dns.flags.AA
    if record is not None:
        said.answer.append(dns.rrset.from_text(question.name, _TTL_SECONDS, "IN", question.rdtype, record))
    elif name not in _NAMES:
        said.set_rcode(dns.rcode.NXDOMAIN)
    return said.to_wire()


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
