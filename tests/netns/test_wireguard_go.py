"""Our tunnel against Debian's wireguard-go, which knows nothing of us.

::

    one namespace:  [this test: UDP socket at 127.0.0.1] -- UDP -- [wireguard-go: 127.0.0.1, TUN 10.99.0.1/24]

The test is the peer 10.99.0.2: it builds and reads IP packets itself. wireguard-go pads plaintext to 16 bytes, we do
not.
"""

import ctypes
import os
import selectors
import shutil
import socket
import struct
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from connectivity.run import Run
from connectivity.wireguard import DATA, HandshakeError, KeyPair, RateLimiter, Tunnel, message_type, peek_initiator
from connectivity.wireguard.limiter import LIMIT

pytestmark = pytest.mark.root

THEIR_IP, OUR_IP = IPv4Address("10.99.0.1"), IPv4Address("10.99.0.2")
ICMP, UDP = 1, 17
PATIENCE_SECONDS = 40.0
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Peer:
    """A tunnel of ours on a UDP socket, driven by the real clock."""

    def __init__(
        self, namespace: str, keys: KeyPair, their_public_key: bytes, preshared_key: bytes, limit: int
    ) -> None:
        with inside(namespace):
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.port: int = self.socket.getsockname()[1]
        self.destination = ("127.0.0.1", 0)
        self.keys = keys
        self.their_public_key = their_public_key
        self.limiter = RateLimiter(keys.public, os.urandom, limit=limit)
        self.tunnel = Tunnel(
            keys=keys,
            peer_public_key=their_public_key,
            preshared_key=preshared_key,
            connection_index=0x123456,
            limiter=self.limiter,
            rng=os.urandom,
            now=time.monotonic_ns(),
        )
        self.packets: list[bytes] = []
        self.kinds: list[int | None] = []

    def send(self, run: Run) -> None:
        sealed = self.tunnel.seal(run, time.monotonic_ns())
        if sealed is not None:
            for message in sealed.segments():
                self.socket.sendto(message, self.destination)

    def pump(self, until: Callable[[], bool]) -> None:
        """Receive, answer and keep time until something has happened."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            while not until():
                assert time.monotonic() < give_up, f"waited in vain; received so far: {self.kinds}"
                self.tunnel.handle_timeout(time.monotonic_ns(), time.time_ns())
                self.drain()
                deadline = self.tunnel.poll_timeout()
                assert deadline is not None, "the tunnel expired"
                selector.select(min(0.01, max(0.0, (deadline - time.monotonic_ns()) / 1e9)))
                self.receive()
                self.drain()

    def pump_packets(self, count: int) -> None:
        """Until ``count`` packets have come out of the tunnel."""
        self.pump(lambda: len(self.packets) == count)

    def drain(self) -> None:
        while (outgoing := self.tunnel.poll_transmit()) is not None:
            self.socket.sendto(outgoing.message, self.destination)

    def receive(self) -> None:
        while True:
            try:
                data, _ = self.socket.recvfrom(2048)
            except BlockingIOError:
                return
            now = time.monotonic_ns()
            kind = message_type(data)
            self.kinds.append(kind)
            if kind == DATA:
                opened = self.tunnel.open(Run.single(data), now)
                if opened is not None:
                    (length,) = struct.unpack_from("!2xH", opened.data)
                    self.packets.append(bytes(opened.data[:length]))
                continue
            source = IPv4Address("127.0.0.1")
            if kind == 1:
                try:
                    initiator = peek_initiator(self.keys, data, limiter=self.limiter, source_ip=source, now=now)
                except HandshakeError as error:
                    if error.reply is None:
                        raise
                    self.socket.sendto(error.reply, self.destination)
                    continue
                assert initiator == self.their_public_key
            self.tunnel.handle_handshake(memoryview(data), source, now, time.time_ns())


class Lab:
    """A namespace with a running wireguard-go and our peer."""

    def __init__(self, namespace: str, interface: str, peer: Peer) -> None:
        self.namespace = namespace
        self.interface = interface
        self.peer = peer

    def latest_handshake(self) -> int:
        line = command("ip", "netns", "exec", self.namespace, "wg", "show", self.interface, "latest-handshakes")
        return int(line.split()[1])


@pytest.fixture
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    for program in ("wireguard-go", "wg", "ip"):
        if shutil.which(program) is None:
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{program} is not installed")
    namespace = interface = f"pwg{os.getpid() % 1_000_000}"
    ours, theirs, preshared_key = KeyPair.generate(os.urandom), KeyPair.generate(os.urandom), os.urandom(32)
    command("ip", "netns", "add", namespace)
    daemon = None
    try:
        command("ip", "-n", namespace, "link", "set", "lo", "up")
        daemon = subprocess.Popen(
            ["ip", "netns", "exec", namespace, "wireguard-go", "--foreground", interface],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"LOG_LEVEL": "silent"},
        )
        peer = Peer(namespace, ours, theirs.public, preshared_key, getattr(request, "param", LIMIT))
        peer.destination = ("127.0.0.1", configure(namespace, interface, daemon, tmp_path, peer, theirs, preshared_key))
        with peer.socket:
            yield Lab(namespace, interface, peer)
    finally:
        if daemon is not None:
            daemon.terminate()
            daemon.wait(PATIENCE_SECONDS)
        command("ip", "netns", "del", namespace)


def test_we_initiate_and_ping(lab: Lab) -> None:
    peer = lab.peer
    peer.tunnel.initiate(time.monotonic_ns(), time.time_ns())
    peer.pump(lambda: peer.tunnel.has_session)
    assert peer.kinds == [2]
    peer.send(Run.single(echo_request(b"first ping")))
    peer.pump_packets(1)
    (reply,) = peer.packets
    assert reply[9] == ICMP
    assert reply[20] == 0  # echo reply
    assert reply[28:] == b"first ping"
    assert lab.latest_handshake() > 0


def test_a_queued_packet_follows_the_handshake_that_it_caused(lab: Lab) -> None:
    peer = lab.peer
    peer.send(Run.single(echo_request(b"queued")))
    peer.pump_packets(1)
    assert peer.packets[0][28:] == b"queued"


def test_they_initiate_and_ping(lab: Lab) -> None:
    peer = lab.peer
    ping = subprocess.Popen(
        ["ip", "netns", "exec", lab.namespace, "ping", "-c", "1", "-W", "30", str(OUR_IP)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        peer.pump_packets(1)
        assert peer.kinds[0] == 1
        assert peer.tunnel.has_session
        peer.send(Run.single(echo_reply(peer.packets[0])))
        output, _ = ping.communicate(timeout=PATIENCE_SECONDS)
    finally:
        ping.kill()
        ping.wait()
    assert "1 received" in output


def test_runs_of_datagrams_arrive_whole_in_both_directions(lab: Lab) -> None:
    peer = lab.peer
    with inside(lab.namespace):
        application = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with application:
        application.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        application.bind((str(THEIR_IP), 7000))
        application.settimeout(PATIENCE_SECONDS)
        peer.tunnel.initiate(time.monotonic_ns(), time.time_ns())
        peer.pump(lambda: peer.tunnel.has_session)

        payloads = [bytes([number]) * 1252 for number in range(48)] + [b"short"]
        for _ in range(3):
            peer.send(Run(memoryview(b"".join(udp_packet(5000, 7000, payload) for payload in payloads)), 1280))
            assert [application.recv(2048) for _ in payloads] == payloads

        sizes = [1, 15, 16, 17, 100, 1252]
        for size in sizes:
            application.sendto(b"z" * size, (str(OUR_IP), 5000))
        peer.pump_packets(len(sizes))
        assert [packet[28:] for packet in peer.packets] == [b"z" * size for size in sizes]
    assert not peer.tunnel.drops


def test_new_handshakes_replace_the_session_without_loss(lab: Lab) -> None:
    peer = lab.peer
    for number in range(1, 4):
        # wireguard-go takes at most one initiation of a peer in 20 ms.
        quiet_until = time.monotonic() + 0.03
        peer.pump(partial(passed, quiet_until))
        peer.tunnel.initiate(time.monotonic_ns(), time.time_ns())
        peer.pump(lambda: not peer.tunnel.handshake_in_flight)
        peer.send(Run.single(echo_request(b"ping %d" % number)))
        peer.pump_packets(number)
    assert [packet[28:] for packet in peer.packets] == [b"ping 1", b"ping 2", b"ping 3"]


@pytest.mark.parametrize("lab", [0], indirect=True)
def test_they_use_the_cookie_that_we_demand(lab: Lab) -> None:
    """With no allowance at all every handshake needs mac2; wireguard-go tries again after 5 s."""
    peer = lab.peer
    application = ["ip", "netns", "exec", lab.namespace, "ping", "-c", "1", "-W", "30", str(OUR_IP)]
    ping = subprocess.Popen(application, stdout=subprocess.DEVNULL)
    try:
        peer.pump_packets(1)
    finally:
        ping.kill()
        ping.wait()
    assert peer.kinds[:2] == [1, 1]


def configure(
    namespace: str,
    interface: str,
    daemon: subprocess.Popen[bytes],
    directory: Path,
    peer: Peer,
    theirs: KeyPair,
    preshared_key: bytes,
) -> int:
    """Give wireguard-go its keys, address and peer as soon as it listens; returns its UDP port."""
    with inside(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    for name, key in (("private", theirs.private), ("preshared", preshared_key)):
        (directory / name).write_bytes(b64encode(key))
    control = Path("/var/run/wireguard") / f"{interface}.sock"
    give_up = time.monotonic() + PATIENCE_SECONDS
    with selectors.DefaultSelector() as waiter:
        while not control.exists():
            assert daemon.poll() is None, "wireguard-go ended"
            assert time.monotonic() < give_up, "wireguard-go does not come up"
            waiter.select(0.02)
    command(
        "ip", "netns", "exec", namespace, "wg", "set", interface, "listen-port", str(port),
        "private-key", str(directory / "private"), "peer", b64encode(peer.keys.public).decode(),
        "preshared-key", str(directory / "preshared"), "endpoint", f"127.0.0.1:{peer.port}",
        "allowed-ips", f"{OUR_IP}/32",
    )  # fmt: skip
    command("ip", "-n", namespace, "addr", "add", f"{THEIR_IP}/24", "dev", interface)
    command("ip", "-n", namespace, "link", "set", interface, "mtu", "1280", "up")
    return port


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Sockets made in this context belong to the namespace."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    target = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY)
    try:
        set_namespace(target)
        try:
            yield
        finally:
            set_namespace(home)
    finally:
        os.close(home)
        os.close(target)


def passed(moment: float) -> bool:
    return time.monotonic() > moment


def set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def command(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr.strip()}"
    return done.stdout


def echo_request(data: bytes) -> bytes:
    header = struct.pack("!BBHHH", 8, 0, 0, 77, 1)
    icmp = struct.pack("!BBHHH", 8, 0, checksum(header + data), 77, 1) + data
    return ip_packet(OUR_IP, THEIR_IP, ICMP, icmp)


def echo_reply(request: bytes) -> bytes:
    body = b"\0\0\0\0" + request[24:]
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    return ip_packet(OUR_IP, THEIR_IP, ICMP, body)


def udp_packet(source_port: int, destination_port: int, payload: bytes) -> bytes:
    """Checksum zero: none, which IPv4 allows."""
    datagram = struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload
    return ip_packet(OUR_IP, THEIR_IP, UDP, datagram)


def ip_packet(source: IPv4Address, destination: IPv4Address, protocol: int, body: bytes) -> bytes:
    fields = (0x45, 0, 20 + len(body), 0, 0x4000, 64, protocol)
    header = struct.pack("!BBHHHBBH", *fields, 0) + source.packed + destination.packed
    return struct.pack("!BBHHHBBH", *fields, checksum(header)) + source.packed + destination.packed + body


def checksum(data: bytes) -> int:
    total = int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF
    return 0xFFFF - total
