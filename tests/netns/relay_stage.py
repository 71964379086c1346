"""``postern relay`` as a process for tests, the portal that lets it in, and clients and peers with real sockets.

relay and portal (plain_pair's a)  198.51.100.1, 2001:db8::1  ──veth──  198.51.100.2, 2001:db8::2  clients and peers (b)
"""

import asyncio
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from typing import IO, Any

from aiohttp import WSMsgType, web

from connectivity.endpoint import Endpoint
from connectivity.io.udp import UdpSocket
from connectivity.run import Run, Transmit
from lab.processes import wait_until
from relay.core import Output, Relayed, ToClient
from tests.netns.plain_pair import entered
from tests.unit.relay.playbook import Client, RelayUnderTest, channel_message

RELAY = {4: ip_address("198.51.100.1"), 6: ip_address("2001:db8::1")}
FAR = {4: ip_address("198.51.100.2"), 6: ip_address("2001:db8::2")}
COMMAND = [sys.executable, "-c", "import sys; from postern.cli import main; sys.exit(main())", "relay"]
GOOD_TOKEN = "a good token"
_PATIENCE = 60  # seconds, on a machine on which ten others run
ENVIRONMENT = {
    "PUBLIC_IP4_ADDR": "198.51.100.1",
    "PUBLIC_IP6_ADDR": "2001:db8::1",
    "FIREZONE_API_URL": "ws://127.0.0.1:8081",
    "FIREZONE_TOKEN": GOOD_TOKEN,
    "FIREZONE_NAME": "the relay",
    "FIREZONE_TELEMETRY": "false",
    "HEALTH_CHECK_ADDR": "127.0.0.1:8080",
    "LOG_FORMAT": "human",
    "POSTERN_ADMIN_SOCKET": "off",
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
        self.leaves = 0
        self._sockets: list[web.WebSocketResponse] = []
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()

    def wait_join(self, count: int = 1) -> str:
        """The stamp secret of a join, in order."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.joins) >= count, _PATIENCE), "the relay has not joined"
            return str(self.joins[count - 1]["stamp_secret"])

    def wait_leave(self) -> None:
        """One relay has closed its connection."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.leaves > 0, _PATIENCE), "the relay has not left"

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
        with self._changed:
            self.leaves += 1
            self._changed.notify_all()
        return opened


@contextmanager
def running(
    namespace: str, environment: Mapping[str, str], *arguments: str, errors: IO[str] | int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """A relay process that is gone afterwards."""
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, *COMMAND, *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        stdout=subprocess.PIPE,
        stderr=errors,
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
        _, said = process.communicate(timeout=_PATIENCE)
        return process.returncode, said.strip().splitlines()[-1] if said.strip() else ""


def fetch(namespace: str, page: str) -> tuple[int, str]:
    """HTTP status and body."""
    command = ["curl", "-s", "-w", "\n%{http_code}", f"http://127.0.0.1:8080/{page}"]
    done = subprocess.run(["ip", "netns", "exec", namespace, *command], capture_output=True, text=True, check=False)
    body, _, code = done.stdout.rpartition("\n")
    return int(code), body


def readiness(namespace: str, status: int) -> dict[str, Any]:
    """What ``/readyz`` says once it answers with this status; in between the link may only be about to notice."""
    return {name: value for name, value in _readyz(namespace, status).items() if name != "offload"}


def decided_offload(namespace: str) -> dict[str, Any]:
    """What ``/readyz`` says of the offload once the relay is ready."""
    found: dict[str, Any] = _readyz(namespace, 200)["offload"]
    return found


def _readyz(namespace: str, status: int) -> dict[str, Any]:
    read: dict[str, Any] = {}

    def answers() -> bool:
        found, body = fetch(namespace, "readyz")
        if found != status:
            return False
        read.update(json.loads(body))
        return True

    wait_until(answers, f"/readyz answers {status}", seconds=_PATIENCE)
    return read


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
        readable, _, _ = select.select([by], [], [], 20)
        assert readable, f"only {len(found)} of {count} datagrams came"
        for received in by.receive():
            assert received.remote == sender
            assert tos is None or received.tos == tos
            found += [bytes(segment) for segment in received.run.segments()]
    return found
