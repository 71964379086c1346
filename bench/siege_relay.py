"""Floods of a stand-alone relay: forged Bindings and Allocates, and many TLS clients behind one address."""

import asyncio
import os
import select
import socket
import ssl
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.figures import Figure
from bench.relay_turn import CHANNEL, TurnClient, allocate, bind, connect
from bench.siege_stage import RELAY_AT, RELAY_TLS_AT, Flood, LogTail, Terms, besieged, flood, start_relay
from connectivity.endpoint import Endpoint
from connectivity.stun import Lifetime, Message, MessageClass, Method, Nonce, RequestedTransport, decode, encode
from connectivity.turn import channel_data
from lab import network
from lab.network import entered
from lab.plan import CLIENT_ROUTER, GATEWAY_ROUTER
from lab.topology import Lab

BINDINGS_PER_SECOND: Final = 1000
ALLOCATES_PER_SECOND: Final = 30_000
REFRESHES: Final = 8
CROWDS: Final = (60, 150)
SOURCES: Final = "198.18.0.0/16"
_UDP: Final = 17
_HEADER_BYTES: Final = 20  # of STUN
_LIFETIME: Final = 600
_TRY_SECONDS: Final = 0.5
_PAUSE_SECONDS: Final = 0.01  # between two datagrams of a live allocation
_GIVE_UP_SECONDS: Final = 60.0
_CROWD_SECONDS: Final = 15.0
_PAYLOAD: Final = bytes(160)


def bindings(terms: Terms) -> list[Figure]:
    """Forged Bindings from the address of a client with an allocation: how many of its refreshes fail."""
    with besieged() as lab:
        start_relay(lab, terms)
        victim, _ = _live_allocation(lab)
        forged = f"{CLIENT_ROUTER.address}/32"
        with flood(lab, "bindings", RELAY_AT, forged, BINDINGS_PER_SECOND, terms.seconds + REFRESHES) as running:
            time.sleep(1)
            failed = sum(not _refresh(victim) for _ in range(REFRESHES))
            was_running = running.is_running()
            reached = running.reached()
    return [
        Figure("forged Bindings: rate reached", reached.rate, "/s"),
        Figure(f"forged Bindings: of {REFRESHES} refreshes fail", failed if was_running else None, at_most=0),
    ]


def allocates(terms: Terms) -> list[Figure]:
    """Forged Allocates faster than Python reads: what passes meanwhile, and how soon the relay answers afterwards."""
    found: list[Figure] = []
    for name, offload in (("in Python", False), ("with XDP", True)):
        with besieged() as lab:
            start_relay(lab, terms, offload=offload)
            victim, peer = _live_allocation(lab)
            stranger = connect(lab.gateway_nat, GATEWAY_ROUTER.address, RELAY_AT, 1)[0]
            with flood(lab, "allocates", RELAY_AT, SOURCES, ALLOCATES_PER_SECOND, terms.seconds) as running:
                share = _share_that_passes(victim, peer, running)
                reached = running.reached()
            binding, refresh = _recover(stranger, victim)
        found += [
            Figure(f"Allocates {name}: rate reached", reached.rate, "/s"),
            Figure(f"Allocates {name}: data meanwhile", share, "%", at_least=90),
            Figure(f"Allocates {name}: Binding again after", binding, "s", at_most=0.5),
            Figure(f"Allocates {name}: Refresh again after", refresh, "s", at_most=0.5),
        ]
    return found


def crowd(terms: Terms) -> list[Figure]:
    """TLS clients of one address at once: how many get an allocation, and whether those that are not are told of."""
    found: list[Figure] = []
    for count in CROWDS:
        with besieged() as lab:
            relay = start_relay(lab, terms, tls=_certificate(lab.logs))
            tail = LogTail(relay.log)
            with entered(lab.client_nat):
                served = asyncio.run(_serve_crowd(count))
            time.sleep(1)
            warnings = tail.text().count("WARN")
        untold = count - served if not warnings else 0
        found += [
            Figure(f"{count} TLS clients: served", served, at_least=count),
            Figure(f"{count} TLS clients: refused without a word", untold, at_most=0),
            Figure(f"{count} TLS clients: warnings", warnings, at_most=1),
        ]
    return found


def _live_allocation(lab: Lab) -> tuple[TurnClient, socket.socket]:
    """A client with an allocation and a channel to a peer."""
    victim = connect(lab.client_nat, CLIENT_ROUTER.address, RELAY_AT, 1)[0]
    with entered(lab.gateway_nat):
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.bind((GATEWAY_ROUTER.address, 0))
    peer.setblocking(False)
    allocate([victim])
    bind([victim], [Endpoint.parse(f"{GATEWAY_ROUTER.address}:{peer.getsockname()[1]}")])
    return victim, peer


def _refresh(client: TurnClient) -> bool:
    """Two tries, as a client makes them in its first second."""
    request = client.request(Method.REFRESH, Lifetime(_LIFETIME))
    for _ in range(2):
        client.socket.send(request)
        ends = time.monotonic() + _TRY_SECONDS
        while (left := ends - time.monotonic()) > 0:
            if select.select([client.socket], [], [], left)[0] and _answers(client, request[8:20]):
                return True
    return False


def _answers(client: TurnClient, identifier: bytes) -> bool:
    """Whether a success response lies in the socket; of that request, if one is given."""
    data = client.socket.recv(2048)
    if not identifier or data[8:20] == identifier:
        return decode(data).message_class is MessageClass.SUCCESS
    return False


def _share_that_passes(victim: TurnClient, peer: socket.socket, running: Flood) -> float:
    """Percent of datagrams of a live allocation that reach its peer during a flood."""
    datagram = channel_data.encode_header(CHANNEL, len(_PAYLOAD)) + _PAYLOAD
    sent = received = 0
    while running.is_running():
        victim.socket.send(datagram)
        sent += 1
        time.sleep(_PAUSE_SECONDS)
        received += _drain(peer)
    return 100 * received / max(1, sent)


def _drain(opened: socket.socket) -> int:
    count = 0
    while True:
        try:
            opened.recv(2048)
        except BlockingIOError:
            return count
        count += 1


def _recover(stranger: TurnClient, victim: TurnClient) -> tuple[float | None, float | None]:
    """Seconds until a stranger's Binding and the victim's Refresh are answered; both are repeated meanwhile."""
    started = time.monotonic()
    found: dict[socket.socket, float] = {}
    waiting = {stranger.socket: stranger, victim.socket: victim}
    while waiting and (passed := time.monotonic() - started) < _GIVE_UP_SECONDS:
        for client in waiting.values():
            client.socket.send(_probe(client, is_stranger=client is stranger))
        for opened in select.select([*waiting], [], [], 0.05)[0]:
            if _answers(waiting[opened], b""):
                found[opened] = time.monotonic() - started
                del waiting[opened]
        time.sleep(0.02 if passed < 1 else 0.1)
    return found.get(stranger.socket), found.get(victim.socket)


def _probe(client: TurnClient, *, is_stranger: bool) -> bytes:
    if is_stranger:
        return encode(Method.BINDING, MessageClass.REQUEST, os.urandom(12), ())
    return client.request(Method.REFRESH, Lifetime(_LIFETIME))


def _certificate(folder: Path) -> tuple[str, str]:
    """One that nobody checks."""
    certificate, key = folder / "relay.crt", folder / "relay.key"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=relay"]
    network.run_command(["openssl", "req", "-x509", *kind, "-keyout", str(key), "-out", str(certificate)])
    return str(certificate), str(key)


async def _serve_crowd(count: int) -> int:
    """So many at once, each of which stays until all are done: how many got an allocation."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in range(count)]
        for opened in sockets:
            opened.setblocking(False)
            opened.bind((CLIENT_ROUTER.address, 0))
        # All connections are there before the first handshake begins, whose keys take time at either end.
        server = (str(RELAY_TLS_AT.ip), RELAY_TLS_AT.port)
        await asyncio.gather(*(loop.sock_connect(opened, server) for opened in sockets), return_exceptions=True)
        writers = await asyncio.gather(*map(_allocated_by_tls, sockets))
        for writer in writers:
            if writer is not None:
                writer.close()
    return sum(writer is not None for writer in writers)


async def _allocated_by_tls(opened: socket.socket) -> asyncio.StreamWriter | None:
    """A handshake and an allocation on a connection: its writer once that is there, None if it is not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = TurnClient(opened)
    asked = RequestedTransport(_UDP)
    try:
        async with asyncio.timeout(_CROWD_SECONDS):
            reader, writer = await asyncio.open_connection(sock=opened, ssl=context, server_hostname="")
            writer.write(client.request(Method.ALLOCATE, asked))
            nonce = (await _read_message(reader)).get(Nonce)
            client.nonce = "" if nonce is None else nonce.value
            writer.write(client.request(Method.ALLOCATE, asked))
            allocated = (await _read_message(reader)).message_class is MessageClass.SUCCESS
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return None
    return writer if allocated else None


async def _read_message(reader: asyncio.StreamReader) -> Message:
    head = await reader.readexactly(_HEADER_BYTES)
    return decode(head + await reader.readexactly(int.from_bytes(head[2:4], "big")))
