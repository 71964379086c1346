"""WireGuard initiations whose mac1 is right, at the gateway, and how long a small fetch through the tunnel takes."""

import asyncio
import re
import socket
import statistics
import time
from collections.abc import Callable
from typing import Final

from bench.figures import Figure
from bench.siege_device import Crowd
from bench.siege_stage import ATTACKER, Terms, besieged, flood
from connectivity.endpoint import Endpoint
from connectivity.io.tunnel_sockets import PREFERRED_PORT
from lab import measure, network
from lab.errors import LabError
from lab.network import entered
from lab.plan import GATEWAY, GATEWAY_ROUTER, RESOURCE
from lab.resource import PAGE
from lab.stack import Stack
from lab.topology import Lab

RATE: Final = 10_000
SOURCES: Final = "198.18.0.0/16"
_RESOURCE_NAME: Final = "resources over IPv4"  # as lab.portal_file has it
_FETCHES: Final = 50
_PATIENCE_SECONDS: Final = 5.0
_PORT = re.compile(r"\S+:(\d+)\s")


def initiations(terms: Terms) -> list[Figure]:
    """The median of small fetches before the flood, and under it."""
    with besieged() as lab:
        stack = Stack(lab, postern=terms.command)
        stack.start()
        measure.first_answer_ms(lab)
        with entered(lab.internet):
            key = asyncio.run(_gateway_key(stack))
        if not key:
            raise LabError("no gateway has let a client in")
        network.execute(lab.internet, ["ip", "route", "add", GATEWAY.network, "via", GATEWAY_ROUTER.address])
        before = fetches(lab, lambda count: count < _FETCHES)
        target = Endpoint.parse(f"{GATEWAY.address}:{_gateway_port(lab)}")
        with flood(lab, "initiations", target, SOURCES, RATE, 2 * terms.seconds, key=key) as running:
            during = fetches(lab, lambda _: running.is_running())
            reached = running.reached()
    return [
        Figure("initiations: rate reached", reached.rate, "/s"),
        Figure("initiations: a fetch before, median", statistics.median(before), "ms"),
        Figure("initiations: a fetch meanwhile, median", statistics.median(during), "ms", at_most=10),
        Figure("initiations: longest fetch meanwhile", max(during), "ms"),
    ]


def fetches(lab: Lab, more: Callable[[int], bool]) -> list[float]:
    """Fetch the page again and again while ``more`` says so, at least once: ms each, the patience where none came."""
    found: list[float] = []
    while not found or more(len(found)):
        started = time.monotonic()
        fetched = _fetch(lab)
        took = time.monotonic() - started
        found.append((took if fetched else max(took, _PATIENCE_SECONDS)) * 1000)
    return found


def _fetch(lab: Lab) -> bool:
    with entered(lab.user):
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with opened:
        opened.settimeout(_PATIENCE_SECONDS)
        try:
            opened.connect((RESOURCE.address, 80))
            opened.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while not answer.endswith(PAGE) and (more := opened.recv(65536)):
                answer += more
        except OSError:
            return False
    return answer.endswith(PAGE)


async def _gateway_key(stack: Stack) -> bytes:
    async with Crowd.open() as crowd:
        return await crowd.gateway_key(stack.tokens.client, _RESOURCE_NAME, ATTACKER)


def _gateway_port(lab: Lab) -> int:
    """Where its tunnel listens: the preferred port, unless that was taken."""
    listening = network.execute(lab.gateway, ["ss", "-Hlun4"])
    ports = {int(found) for found in _PORT.findall(listening)}
    return PREFERRED_PORT if PREFERRED_PORT in ports else max(ports)
