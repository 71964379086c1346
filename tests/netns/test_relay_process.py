"""``postern relay`` as a process: let in by a portal, with clients and peers over a wire; and how it fails to start.

relay and portal (plain_pair's a)  198.51.100.1, 2001:db8::1  ──veth──  198.51.100.2, 2001:db8::2  clients and peers (b)
"""

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from connectivity.endpoint import Endpoint
from connectivity.io.udp import UdpSocket
from connectivity.run import Run, Transmit
from connectivity.stun import (
    AdditionalAddressFamily,
    AddressFamily,
    Lifetime,
    MessageClass,
    Method,
    RequestedTransport,
    XorMappedAddress,
    XorRelayedAddress,
    decode,
    encode,
)
from relay.core import Output, Relayed, ToClient
from tests.netns.plain_pair import entered, ip, namespaces
from tests.unit.relay.playbook import Client, RelayUnderTest, attribute_of, channel_message, error_code

pytestmark = pytest.mark.root

RELAY = {4: ip_address("198.51.100.1"), 6: ip_address("2001:db8::1")}
FAR = {4: ip_address("198.51.100.2"), 6: ip_address("2001:db8::2")}
COMMAND = [sys.executable, "-c", "import sys; from postern.cli import main; sys.exit(main())", "relay"]
IP_RECVTTL = 12  # linux/in.h
GOOD_TOKEN = "a good token"
ENVIRONMENT = {
    "PUBLIC_IP4_ADDR": "198.51.100.1",
    "PUBLIC_IP6_ADDR": "2001:db8::1",
    "FIREZONE_API_URL": "ws://127.0.0.1:8081",
    "FIREZONE_TOKEN": GOOD_TOKEN,
    "FIREZONE_NAME": "the relay",
    "FIREZONE_TELEMETRY": "false",
    "HEALTH_CHECK_ADDR": "127.0.0.1:8080",
    "LOG_FORMAT": "human",
    "RNG_SEED": "0",
    "RUST_LOG": "info,relay=debug",
}


class Portal:
    """Accepts relays with the good token; keeps what they joined with. Runs in a thread of its own."""

    def __init__(self, namespace: str, port: int = 8081) -> None:
        with entered(namespace):
            self._listener = socket.create_server(("127.0.0.1", port), reuse_port=True)
        self.joins: list[Any] = []
        self.requests: list[web.Request] = []
        self._sockets: list[web.WebSocketResponse] = []
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()

    def wait_join(self, count: int = 1) -> str:
        """The stamp secret of a join, in order."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.joins) >= count, 20), "the relay has not joined"
            return str(self.joins[count - 1]["stamp_secret"])

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        application = web.Application()
        application.add_routes([web.get("/relay/websocket", self._upgrade)])
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.SockSite(runner, self._listener).start()
        await self._stop.wait()
        for opened in self._sockets:
            await opened.close()
        await runner.cleanup()

    async def _upgrade(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if request.query.get("token") != GOOD_TOKEN:
            return web.Response(status=401, text="Invalid token")
        opened = web.WebSocketResponse()
        await opened.prepare(request)
        self._sockets.append(opened)
        async for frame in opened:
            if frame.type is not WSMsgType.TEXT:
                continue
            message = json.loads(frame.data)
            reply = {**message, "event": "phx_reply", "payload": {"status": "ok", "response": {}}}
            await opened.send_json(reply)
            if message["event"] == "phx_join":
                await opened.send_json({"topic": "relay", "event": "init", "payload": {}, "ref": None})
                with self._changed:
                    self.joins.append(message["payload"])
                    self._changed.notify_all()
        return opened


@contextmanager
def running(namespace: str, environment: Mapping[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A relay process that is gone afterwards."""
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, *COMMAND, *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run_to_its_end(namespace: str, environment: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    """Exit code and last line of what was said."""
    with running(namespace, environment, *arguments) as process:
        _, said = process.communicate(timeout=20)
        return process.returncode, said.strip().splitlines()[-1] if said.strip() else ""


def fetch(namespace: str, page: str) -> tuple[int, str]:
    """HTTP status and body."""
    command = ["curl", "-s", "-w", "\n%{http_code}", f"http://127.0.0.1:8080/{page}"]
    done = subprocess.run(["ip", "netns", "exec", namespace, *command], capture_output=True, text=True, check=False)
    body, _, code = done.stdout.rpartition("\n")
    return int(code), body


def readiness(namespace: str, status: int) -> dict[str, Any]:
    """What ``/readyz`` says once it answers with this status; in between the link may only be about to notice."""
    for _ in range(200):
        found, body = fetch(namespace, "readyz")
        if found == status:
            return {name: value for name, value in json.loads(body).items() if name != "offload"}
    raise AssertionError(f"/readyz never answered {status}")


class WireClient(Client):
    """A TURN client behind a real socket."""

    def __init__(self, stack: ExitStack, namespace: str, version: int, secret: str) -> None:
        self.socket = bound(stack, namespace, version)
        super().__init__(RelayUnderTest(), str(Endpoint(FAR[version], self.socket.local.port)), secret=secret)
        self.server = Endpoint(RELAY[version], 3478)

    def send(self, data: bytes | Run, *, tos: int = 0) -> list[Relayed | Output]:
        run = data if isinstance(data, Run) else Run.single(data)
        self.socket.send(Transmit(None, self.server, run, tos))
        (answer,) = receive(self.socket, 1, self.server)
        return [ToClient(Transmit(None, self.endpoint, Run.single(answer)))]

    def send_data(self, number: int, payloads: list[bytes], tos: int) -> None:
        """Channel data, segmented by the kernel."""
        data = b"".join(channel_message(number, payload) for payload in payloads)
        run = Run(memoryview(data), len(payloads[0]) + 4)
        self.socket.send(Transmit(None, self.server, run, tos))


def bound(stack: ExitStack, namespace: str, version: int) -> UdpSocket:
    """A socket of the far side."""
    with entered(namespace):
        opened = UdpSocket.bind(FAR[version], 0)
    stack.callback(opened.close)
    return opened


def receive(by: UdpSocket, count: int, sender: Endpoint, tos: int | None = None) -> list[bytes]:
    """So many datagrams, all from one sender."""
    found: list[bytes] = []
    while len(found) < count:
        readable, _, _ = select.select([by], [], [], 5)
        assert readable, f"only {len(found)} of {count} datagrams came"
        for received in by.receive():
            assert received.remote == sender
            assert tos is None or received.tos == tos
            found += [bytes(segment) for segment in received.run.segments()]
    return found


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[str, str]]:
    with namespaces() as names:
        yield names


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture(scope="module")
def secret(pair: tuple[str, str]) -> Iterator[str]:
    """The stamp secret of a relay that runs for the whole module."""
    with ExitStack() as module:
        portal = Portal(pair[0])
        module.callback(portal.close)
        module.enter_context(running(pair[0], ENVIRONMENT))
        yield portal.wait_join()


@pytest.mark.parametrize("client_version", [4, 6])
@pytest.mark.parametrize("peer_version", [4, 6])
def test_data_goes_both_ways(
    stack: ExitStack, pair: tuple[str, str], secret: str, client_version: int, peer_version: int
) -> None:
    client = WireClient(stack, pair[1], client_version, secret)
    peer = bound(stack, pair[1], peer_version)
    peer_address = Endpoint(FAR[peer_version], peer.local.port)

    port = client.allocate(AdditionalAddressFamily(AddressFamily.IPV6))
    relayed = Endpoint(RELAY[peer_version], port)
    assert error_code(client.bind(0x4000, peer_address)) == 0
    payloads = [bytes([index]) * 1200 for index in range(40)] + [b"the shorter last one"]

    client.send_data(0x4000, payloads, tos=0xB9)
    assert receive(peer, len(payloads), relayed, tos=0xB9) == payloads

    run = Run(memoryview(b"".join(payloads)), 1200)
    peer.send(Transmit(None, relayed, run, 0x02))
    back = receive(client.socket, len(payloads), client.server, tos=0x02)
    assert back == [channel_message(0x4000, payload) for payload in payloads]

    assert error_code(client.call(Method.REFRESH, Lifetime(0))) == 0


def test_two_clients_meet_inside(stack: ExitStack, pair: tuple[str, str], secret: str) -> None:
    left, right = WireClient(stack, pair[1], 4, secret), WireClient(stack, pair[1], 6, secret)
    addresses = [Endpoint(RELAY[6], client.allocate()) for client in (left, right)]
    left.bind(0x4000, addresses[1])
    right.bind(0x4001, addresses[0])
    left.send_data(0x4000, [b"x" * 100, b"y" * 100], tos=0)
    expected = [channel_message(0x4001, b"x" * 100), channel_message(0x4001, b"y" * 100)]
    assert receive(right.socket, 2, right.server) == expected
    for client in (left, right):
        client.call(Method.REFRESH, Lifetime(0))


def test_binding_and_health(stack: ExitStack, pair: tuple[str, str], secret: str) -> None:
    client = WireClient(stack, pair[1], 4, secret)
    outputs = client.send(encode(Method.BINDING, MessageClass.REQUEST, bytes(12), ()))
    assert isinstance(outputs[0], ToClient)
    assert attribute_of(decode(outputs[0].transmit.run.data), XorMappedAddress).endpoint == client.endpoint
    assert fetch(pair[0], "healthz")[0] == 200
    status, body = fetch(pair[0], "readyz")
    offload = {"mode": "off", "reason": "not asked for", "egress": {}}
    assert (status, json.loads(body)) == (200, {"ready": True, "portal": "joined", "offload": offload})
    assert (
        'postern_relay_responses_total{response_class="success",message_type="binding"' in fetch(pair[0], "metrics")[1]
    )


def test_hops_are_counted_anew(stack: ExitStack, pair: tuple[str, str], secret: str) -> None:
    client = WireClient(stack, pair[1], 4, secret)
    with entered(pair[1]):
        peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    peer.bind((str(FAR[4]), 0))
    peer.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    peer.settimeout(5)
    client.allocate()
    client.bind(0x4000, Endpoint(FAR[4], peer.getsockname()[1]))
    client.send_data(0x4000, [b"x"], tos=0)
    _, ancillary, _, _ = peer.recvmsg(100, 100)
    assert [int.from_bytes(data, sys.byteorder) for _, _, data in ancillary] == [64]
    client.call(Method.REFRESH, Lifetime(0))


def test_the_portal_may_be_away_and_come_back() -> None:
    with namespaces() as names, ExitStack() as stack:
        portal = Portal(names[0])
        process = stack.enter_context(running(names[0], ENVIRONMENT))
        secret = portal.wait_join()
        request = portal.requests[0]
        assert list(request.query.items()) == [
            ("token", GOOD_TOKEN),
            ("name", "the relay"),
            ("ipv4", "198.51.100.1"),
            ("ipv6", "2001:db8::1"),
            ("port", "3478"),
        ]
        assert any(word.startswith("relay/") for word in request.headers["User-Agent"].split(" "))
        client = WireClient(stack, names[1], 4, secret)
        client.allocate()
        assert readiness(names[0], 200) == {"ready": True, "portal": "joined"}
        portal.close()
        assert readiness(names[0], 503) == {"ready": False, "portal": "away"}
        assert fetch(names[0], "healthz")[0] == 200
        assert error_code(client.call(Method.REFRESH)) == 0
        returned = Portal(names[0])
        stack.callback(returned.close)
        assert returned.wait_join() == secret
        assert readiness(names[0], 200) == {"ready": True, "portal": "joined"}
        assert error_code(client.call(Method.REFRESH)) == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(3) == 0


def test_the_kernel_takes_over_and_python_takes_what_it_leaves() -> None:
    with namespaces() as names, ExitStack() as stack:
        # A veth takes frames from XDP only if its far end does GRO or has a program too.
        ip("netns", "exec", names[1], "ethtool", "-K", "veth0", "gro", "on")
        portal = Portal(names[0])
        stack.callback(portal.close)
        process = stack.enter_context(running(names[0], {**ENVIRONMENT, "POSTERN_EBPF_INTERFACES": "veth0"}))
        client = WireClient(stack, names[1], 4, portal.wait_join())
        peer = bound(stack, names[1], 6)
        _, body = fetch(names[0], "readyz")
        offload = json.loads(body)["offload"]
        assert (offload["mode"], offload["egress"]) == ("native", {"veth0": "verified"}), body
        relayed = Endpoint(RELAY[6], client.allocate())
        client.bind(0x4000, Endpoint(FAR[6], peer.local.port))
        payloads = [bytes([index]) * 1200 for index in range(20)]
        client.send_data(0x4000, payloads, tos=0xB9)
        assert receive(peer, len(payloads), relayed, tos=0xB9) == payloads
        peer.send(Transmit(None, relayed, Run(memoryview(b"".join(payloads)), 1200), 0))
        expected = [channel_message(0x4000, payload) for payload in payloads]
        assert receive(client.socket, len(payloads), client.server) == expected
        for direction in ("to_peer", "to_client"):
            assert f'packets_total{{path="xdp",direction="{direction}"}} 20' in fetch(names[0], "metrics")[1]
        # Padding is for Python.
        client.socket.send(Transmit(None, client.server, Run.single(channel_message(0x4000, b"12345") + bytes(3))))
        assert receive(peer, 1, relayed) == [b"12345"]
        assert 'packets_total{path="python",direction="to_peer"} 1' in fetch(names[0], "metrics")[1]
        # Once the channel is gone, so is its entry.
        client.call(Method.REFRESH, Lifetime(0))
        client.send_data(0x4000, [b"late"], tos=0)
        client.allocate()
        assert 'packets_total{path="xdp",direction="to_peer"} 20' in fetch(names[0], "metrics")[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(3) == 0
        assert "xdp" not in ip("-n", names[0], "link", "show", "veth0")


def test_a_port_that_another_program_holds_is_not_given_out() -> None:
    with namespaces() as names, ExitStack() as stack:
        portal = Portal(names[0])
        stack.callback(portal.close)
        stack.enter_context(running(names[0], {**ENVIRONMENT, "LOWEST_PORT": "50000", "HIGHEST_PORT": "50001"}))
        with entered(names[0]):
            other = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            other.bind(("::", 50_000))
        secret = portal.wait_join()
        first, second = WireClient(stack, names[1], 4, secret), WireClient(stack, names[1], 4, secret)
        answer = first.call(Method.ALLOCATE, RequestedTransport(17), AdditionalAddressFamily(AddressFamily.IPV6))
        assert {attribute.endpoint.port for attribute in answer.get_all(XorRelayedAddress)} == {50_001}
        assert error_code(second.call(Method.ALLOCATE, RequestedTransport(17))) == 508


def test_what_a_relay_cannot_start_with_is_said_in_one_line() -> None:
    with namespaces() as names, ExitStack() as stack:
        portal = Portal(names[0])
        stack.callback(portal.close)
        here = names[0]
        code, line = run_to_its_end(here, {**ENVIRONMENT, "FIREZONE_TOKEN": "a wrong token"})
        assert (code, "401" in line) == (1, True), line
        without = {key: value for key, value in ENVIRONMENT.items() if not key.startswith("PUBLIC_")}
        code, line = run_to_its_end(here, without)
        assert (code, "no public address" in line) == (1, True), line
        for wish in ({"EBPF_OFFLOADING": "nosuch0"}, {"POSTERN_EBPF_INTERFACES": "nosuch0"}):
            code, line = run_to_its_end(here, {**ENVIRONMENT, **wish})
            assert (code, "nosuch0" in line) == (1, True), line
        with entered(here):
            busy = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            busy.bind(("0.0.0.0", 3478))
            health = stack.enter_context(socket.create_server(("127.0.0.1", 8080)))
        code, line = run_to_its_end(here, ENVIRONMENT)
        assert (code, "UDP port 3478" in line, "Traceback" in line) == (1, True, False), line
        busy.close()
        code, line = run_to_its_end(here, ENVIRONMENT)
        assert (code, "127.0.0.1:8080" in line) == (1, True), line
        health.close()
        wrong = {**ENVIRONMENT, "PUBLIC_IP4_ADDR": "::1", "LISTEN_PORT": "0", "POSTERN_PEERS": "x"}
        code, line = run_to_its_end(here, wrong)
        assert code == 2
        assert all(name in line for name in ("PUBLIC_IP4_ADDR", "LISTEN_PORT", "POSTERN_PEERS")), line
