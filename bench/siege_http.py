"""Floods of every HTTP port: connections that say nothing, and requests that are none."""

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from bench.figures import Figure
from bench.relay_turn import allocate, connect
from bench.siege_stage import (
    ATTACKER,
    HEALTH_PORT,
    OTHER,
    PORTAL_AT,
    RELAY_AT,
    LogTail,
    Terms,
    besieged,
    start_relay,
    worst_answer,
)
from connectivity.endpoint import Endpoint
from connectivity.io.repetition import MOST_NOTES
from lab.errors import LabError
from lab.network import entered
from lab.plan import CLIENT_ROUTER, GATEWAY
from lab.processes import Process
from lab.stack import Stack
from lab.topology import Lab

SILENT_COUNT: Final = 1100
REPEATS: Final = 50  # of each malformed request, to each server
# More at once than a listener's backlog would be lost before the server has seen them.
_AT_ONCE: Final = 50
_ACCEPT_SECONDS: Final = 0.05
_SETTLE_SECONDS: Final = 1.0
_LOG_KIB: Final = 64
_LINES: Final = MOST_NOTES + 5  # of each server: as many as may be alike in a minute, and a few of other kinds
# What no HTTP parser takes; %b is the token. Each may leave it in another place of a message.
MALFORMED: Final = (
    b"GET /client/websocket?token=%b HTTP/9.9.9\r\nHost: x\r\n\r\n",
    b"GET /client/websocket?token=%b&x=\x01\x02 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"G@T /client/websocket?token=%b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /client/websocket?token=%b\r\n\r\n",
    b"GET http://[::1/?token=%b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /client/websocket?token=%b HTTP/1.1\r\nHost x token=%b\r\n\r\n",
    b"GET /client/websocket?token=%b" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /?token=%b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz %b\r\n\r\n",
)


def silent(terms: Terms) -> list[Figure]:
    """Connections that say nothing, to the portal, and to the health ports of relay and gateway."""
    with _three_servers(terms) as (lab, servers):
        found: list[Figure] = []
        for name, (process, server, asker, source) in servers.items():
            # The gateway's network is behind its router, which the bridge itself has no route to.
            attackers = lab.internet if source else lab.client_nat
            tail = LogTail(process.log)
            with _silent_connections(attackers, server, ATTACKER if source else ""):
                answer = worst_answer(asker, server, terms.seconds, source)
                if name == "relay":
                    found.append(Figure("silent: Allocate meanwhile", _allocate_ms(lab), "ms", at_most=1000))
            found.append(Figure(f"silent: {name}'s /healthz, worst", answer, "ms", at_most=1000))
            found.append(Figure(f"silent: {name}'s log", tail.size / 1024, "KiB", at_most=_LOG_KIB))
        return found


def malformed(terms: Terms) -> list[Figure]:
    """Requests that are none, with a token in them, to the same three."""
    token = secrets.token_urlsafe(24)
    text = ""
    with _three_servers(terms) as (lab, servers):
        tails = [LogTail(process.log) for process, *_ in servers.values()]
        for _, server, _, source in servers.values():
            attackers = lab.internet if source else lab.client_nat
            for request in MALFORMED:
                for _ in range(REPEATS):
                    _say(attackers, server, request.replace(b"%b", token.encode()), ATTACKER if source else "")
        time.sleep(_SETTLE_SECONDS)
        text = "\n".join(tail.text() for tail in tails)
    sent = len(MALFORMED) * REPEATS * 3
    return [
        Figure(f"malformed: log lines, {sent:,} requests", text.count("\n"), at_most=_LINES * 3),
        Figure("malformed: tracebacks", text.count("Traceback"), at_most=0),
        Figure("malformed: times the token was logged", text.count(token), at_most=0),
    ]


@contextmanager
def _three_servers(terms: Terms) -> Iterator[tuple[Lab, dict[str, tuple[Process, Endpoint, str, str]]]]:
    """Portal, relay and gateway: the process, where it listens, and from where others ask (namespace, address)."""
    with besieged() as lab:
        stack = Stack(lab, postern=terms.command)
        portal = stack.start_portal()
        relay = start_relay(lab, terms)
        gateway = stack.start_gateway()
        at_gateway = Endpoint.parse(f"{GATEWAY.address}:{HEALTH_PORT}")
        yield (
            lab,
            {
                "portal": (portal, PORTAL_AT, lab.internet, OTHER),
                "relay": (relay, Endpoint(RELAY_AT.ip, HEALTH_PORT), lab.internet, OTHER),
                "gateway": (gateway, at_gateway, lab.portal, ""),
            },
        )


@contextmanager
def _silent_connections(namespace: str, server: Endpoint, source: str) -> Iterator[None]:
    with ExitStack() as stack:
        with entered(namespace):
            opened = [
                stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in range(SILENT_COUNT)
            ]
        for number, one in enumerate(opened, 1):
            one.setblocking(False)
            if source:
                one.bind((source, 0))
            one.connect_ex((str(server.ip), server.port))
            if number % _AT_ONCE == 0:
                time.sleep(_ACCEPT_SECONDS)
        time.sleep(_SETTLE_SECONDS)
        yield


def _allocate_ms(lab: Lab) -> float | None:
    clients = connect(lab.client_nat, CLIENT_ROUTER.address, RELAY_AT, 1)
    started = time.monotonic()
    try:
        allocate(clients)
    except LabError:
        return None
    finally:
        clients[0].socket.close()
    return (time.monotonic() - started) * 1000


def _say(namespace: str, server: Endpoint, request: bytes, source: str) -> None:
    """Send a request, and take what comes, until the server has had enough."""
    with entered(namespace):
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with opened:
        opened.settimeout(1.0)
        try:
            if source:
                opened.bind((source, 0))
            opened.connect((str(server.ip), server.port))
            opened.sendall(request)
            opened.recv(4096)
        except OSError:
            return  # refused, which is an answer
