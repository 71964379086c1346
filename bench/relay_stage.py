"""Where relays are measured: clients, relay and peers in a namespace each, and the relay's processors' time by thread.

::

    client 198.18.0.2 ──veth── 198.18.0.1 relay 198.18.1.1 ──veth── 198.18.1.2 peer

What the kernel does for an interface is done by a thread of that interface's own (threaded NAPI), so that it is
charged neither to the process that happens to run nor to the generator, and no other program's traffic is in it. Every
interface has GRO; frames towards the relay carry whole checksums. What leaves the relay is one frame per datagram,
because a program looks at the far end, as on a wire: a run is cut by the kernel, at the expense of who sent it.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.relay_turn import PASSWORD, REALM, USERNAME
from connectivity.endpoint import Endpoint
from ebpf import bpf_syscall, netlink, program_time
from lab import network
from lab.cpu import thread_seconds
from lab.errors import LabError
from lab.network import entered
from lab.plan import Plan, Port, Route, Site, Underlay
from lab.processes import Process, spawn, wait_until
from lab.records import Record, clear, sweep
from lab.stack import postern_command

CLIENT: Final = Site.of("198.18.0.2/24", "2001:db8::2/64")
FRONT: Final = Site.of("198.18.0.1/24", "2001:db8::1/64")
BACK: Final = Site.of("198.18.1.1/24", "2001:db8:1::1/64")
PEER: Final = Site.of("198.18.1.2/24", "2001:db8:1::2/64")
SERVER: Final = Endpoint.parse(f"{FRONT.address}:3478")
_HEALTH: Final = "127.0.0.1:8080"
_START_SECONDS: Final = 60
_LOWEST_PORT, _HIGHEST_PORT = 49_152, 65_535


class Variant(StrEnum):
    """What relays."""

    COTURN = "coturn"
    USER_SPACE = "ours, user space"
    NATIVE = "ours, XDP native"
    GENERIC = "ours, XDP generic"

    @property
    def is_xdp(self) -> bool:
        return self in {Variant.NATIVE, Variant.GENERIC}


@dataclass(frozen=True, slots=True)
class Wire:
    """One end of a link: its index in its namespace, and its hardware address."""

    index: int
    mac: bytes


class RelayStage:
    """The three namespaces; what was started in them goes with them."""

    def __enter__(self) -> Self:
        sweep()
        self._record = Record()
        self._stack = ExitStack()
        self._stack.callback(self._record.drop)
        self.logs = Path(tempfile.mkdtemp(prefix="postern-bench-relay-"))
        self._record.note(self.logs)
        # Named by the run, because the kernel's threads are seen from everywhere and carry the interfaces' names.
        self._names = {end: f"{end}{self._record.run_id}" for end in ("c", "f", "b", "p")}
        try:
            self._stack.callback(clear, self._record.prefix)
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if kind is None or not issubclass(kind, Exception):
            shutil.rmtree(self.logs, ignore_errors=True)

    @property
    def client(self) -> str:
        return self._record.prefix + "client"

    @property
    def relay(self) -> str:
        return self._record.prefix + "relay"

    @property
    def peer(self) -> str:
        return self._record.prefix + "peer"

    @property
    def relay_interfaces(self) -> tuple[str, str]:
        """Towards the clients, and towards the peers."""
        return self._names["f"], self._names["b"]

    def wire(self, end: str) -> Wire:
        """``c`` and ``f`` are the client's and the relay's end of one link, ``b`` and ``p`` those of the other."""
        namespace = {"c": self.client, "p": self.peer}.get(end, self.relay)
        with entered(namespace):
            found = netlink.find_interface(self._names[end])
        if found is None:
            raise LabError(f"the interface {self._names[end]} is gone")
        return Wire(found.index, found.mac)

    def kernel_seconds(self) -> float:
        """What the kernel's threads of the relay's two interfaces have used."""
        found = 0.0
        for thread in self._kernel_threads(self.relay_interfaces):
            try:
                found += thread_seconds(thread / "schedstat")
            except OSError:
                continue  # ended meanwhile
        return found

    def prefer_kernel(self) -> None:
        """Let the interfaces' threads go first, as soft interrupts do; a program that attaches makes new threads."""
        for thread in self._kernel_threads(tuple(self._names.values())):
            try:
                os.sched_setscheduler(int(thread.name), os.SCHED_FIFO, os.sched_param(1))
            except ProcessLookupError:
                continue  # ended meanwhile

    def _kernel_threads(self, interfaces: Sequence[str]) -> list[Path]:
        prefixes = tuple(f"napi/{name}-" for name in interfaces)
        found = []
        for path in Path("/proc").glob("[0-9]*/comm"):
            try:
                if path.read_text().startswith(prefixes):
                    found.append(path.parent)
            except OSError:
                continue  # ended meanwhile
        return found

    def relay_received(self) -> int:
        """Frames that have come into the relay's interfaces."""
        paths = [f"/sys/class/net/{name}/statistics/rx_packets" for name in self.relay_interfaces]
        return sum(map(int, network.execute(self.relay, ["cat", *paths]).split()))

    @contextmanager
    def serving(self, variant: Variant, turnserver: Path | None) -> Iterator[Process]:
        """The relay, ready, until left.

        Raises:
            LabError: it does not start, or XDP does not.
        """
        if variant is Variant.COTURN:
            process = self._spawn(variant, _coturn_command(turnserver, self.logs), {})
            self._wait(process, ["ss", "-Hlun", f"sport = :{SERVER.port}"], str(SERVER.port))
        else:
            path = self.logs / "relay.yaml"
            path.write_text(_relay_file(variant, self.relay_interfaces), encoding="utf-8")
            path.chmod(0o600)
            command = [str(postern_command()), "relay", "--config", str(path)]
            env = {"HEALTH_CHECK_ADDR": _HEALTH, "POSTERN_ADMIN_SOCKET": str(self.logs / "admin"), "RUST_LOG": "info"}
            process = self._spawn(variant, command, env)
            self._wait(process, ["curl", "-sf", f"http://{_HEALTH}/readyz"], "ready")
        try:
            self.prefer_kernel()
            yield process
            process.check()
        finally:
            # Drains would only wait for clients that have gone.
            process.popen.kill()
            process.popen.wait()

    def program_id(self) -> int:
        """The program on the relay's interfaces; 0 if there is none."""
        with entered(self.relay):
            found = netlink.find_interface(self.relay_interfaces[0])
        return 0 if found is None else found.program_id

    def program_time(self) -> program_time.RunTime | None:
        """What the program on the relay's interfaces has used, if there is one and the kernel counts."""
        program_id = self.program_id()
        if not program_id:
            return None
        info = bpf_syscall.program_info_by_id(program_id)
        return program_time.RunTime(info.run_time_ns, info.run_count)

    def _build(self) -> None:
        c, f, b, p = self._names.values()
        plan = Plan(
            Underlay.IPV4,
            ("internet", "client", "relay", "peer"),
            links=(
                (Port("client", c, CLIENT), Port("relay", f, FRONT)),
                (Port("relay", b, BACK), Port("peer", p, PEER)),
            ),
            routes=(Route("client", "0.0.0.0/0", FRONT.address), Route("peer", "0.0.0.0/0", BACK.address)),
            forwarding=("relay",),
            switches=tuple(
                (role, name, "gro on tx off") for role, name in (("client", c), ("relay", f), ("relay", b), ("peer", p))
            ),
        )
        network.build(plan, {role: self._record.prefix + role for role in plan.roles})
        for namespace, name in ((self.client, c), (self.relay, f), (self.relay, b), (self.peer, p)):
            network.execute(namespace, ["sh", "-c", f"echo 1 > /sys/class/net/{name}/threaded"])
        # Else a burst meets an unresolved neighbour, whose queue is short.
        network.execute(self.client, ["ping", "-qc1", "-W5", PEER.address])

    def _spawn(self, variant: Variant, command: Sequence[str], env: dict[str, str]) -> Process:
        return spawn(variant.value, self.relay, command, env, self.logs / f"{variant.name.lower()}.log")

    def _wait(self, process: Process, command: list[str], expected: str) -> None:
        def is_ready() -> bool:
            try:
                return expected in network.execute(self.relay, command)
            except LabError:
                return False

        wait_until(is_ready, f"{process.name} is ready", [process], _START_SECONDS)


def find_turnserver(named: Path | None) -> Path | None:
    """The coturn to compare with.

    Raises:
        LabError: the one that was named is not there.
    """
    if named is not None and not os.access(named, os.X_OK):
        raise LabError(f"{named} is no program")
    found = shutil.which("turnserver") if named is None else str(named)
    if found is None:
        print("no turnserver (Debian's package coturn): ours are compared with nothing", file=sys.stderr)
    return None if found is None else Path(found).resolve()


def _coturn_command(turnserver: Path | None, folder: Path) -> list[str]:
    if turnserver is None:
        raise LabError("there is no turnserver")
    return [
        str(turnserver), "-n", "--no-cli", "--no-tls", "--no-dtls", "--no-tcp", "--fingerprint", "--lt-cred-mech",
        f"--user={USERNAME}:{PASSWORD}", f"--realm={REALM}", f"--userdb={folder / 'turndb'}",
        f"--listening-ip={FRONT.address}", f"--relay-ip={FRONT.address}", f"--listening-port={SERVER.port}",
        f"--min-port={_LOWEST_PORT}", f"--max-port={_HIGHEST_PORT}",
        f"--log-file={folder / 'turn.log'}", "--simple-log", f"--pidfile={folder / 'pid'}",
    ]  # fmt: skip


def _relay_file(variant: Variant, interfaces: Sequence[str]) -> str:
    lines = [
        f"realm: {REALM}",
        f'listen: ["{SERVER}"]',
        f"public: {{ipv4: {FRONT.address}}}",
        f"users: {{{USERNAME}: {PASSWORD}}}",
        f"ports: [{_LOWEST_PORT}, {_HIGHEST_PORT}]",
        f"peers: {{allow: [{PEER.network}]}}",
        "quotas: {requests_per_second_per_source: 1000000}",
    ]
    if variant.is_xdp:
        mode = "native" if variant is Variant.NATIVE else "generic"
        lines.append(f"ebpf: {{interfaces: [{', '.join(interfaces)}], mode: {mode}, generic_from_peer: true}}")
    return "\n".join([*lines, ""])
