"""A relay with a file as a process in one namespace, its clients and peers in another."""

import re
import resource
import signal
import socket
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

from connectivity.endpoint import Endpoint
from connectivity.stun import (
    AddressFamily,
    RequestedAddressFamily,
)
from lab.processes import wait_until
from relay.core import Transport
from tests.netns.plain_pair import entered, let_through, namespaces
from tests.netns.relay_stage import COMMAND, FAR, fetch, running
from tests.netns.turn_wire import TurnWire
from tests.unit.relay.test_relay_config_file import make_certificate

FILE = """
realm: example.org
listen: ["198.51.100.1:3478", "[::]:3478"]
public: {ipv4: 198.51.100.1, ipv6: "2001:db8::1"}
tls: {certificate: cert.pem, key: key.pem, listen: ["0.0.0.0:5349", "[::]:5349"]}
users: {alice: secret, bob: secret}
peers: {allow: [198.51.100.0/24, "2001:db8::/64"]}
"""
CHANNEL = 0x4000


class StandAlone:
    """A relay with its file, and the wire to it."""

    def __init__(
        self,
        stack: ExitStack,
        folder: Path,
        environment: Mapping[str, str] = MappingProxyType({}),
        *,
        file: str = FILE,
        limit: int | None = None,
    ) -> None:
        self.here, self.there = stack.enter_context(namespaces())
        self.stack, self.folder, self.file = stack, folder, folder / "relay.yaml"
        make_certificate(folder, "first.example.org")
        self.file.write_text(file)
        self.file.chmod(0o600)
        let_through(self.there)
        self.errors = (folder / "errors").open("w+")
        stack.callback(self.errors.close)
        self.admin_socket = folder / "admin.sock"
        usual = {
            "HEALTH_CHECK_ADDR": "127.0.0.1:8080",
            "POSTERN_ADMIN_SOCKET": str(self.admin_socket),
            "RUST_LOG": "info",
        }
        self.process = stack.enter_context(
            running(self.here, {**usual, **environment}, "--config", str(self.file), errors=self.errors)
        )
        if limit is not None:
            resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        wait_until(lambda: fetch(self.here, "readyz")[0] == 200, "the relay is ready")

    def log(self) -> str:
        return (self.folder / "errors").read_text(encoding="utf-8")

    def client(self, transport: Transport = Transport.UDP, version: int = 4, username: str = "alice") -> TurnWire:
        return TurnWire(self.stack, self.there, transport, version, username)

    def peer(self, version: int = 4) -> tuple[socket.socket, Endpoint]:
        with entered(self.there):
            opened = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        self.stack.enter_context(opened)
        opened.settimeout(10)
        opened.bind((str(FAR[version]), 0))
        return opened, Endpoint(FAR[version], opened.getsockname()[1])

    def reload(self, content: str, expected: str) -> None:
        """Send SIGHUP with another file, and wait for what the log says of it."""
        self.file.write_text(content)
        before = len(self.log())
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: expected in self.log()[before:], expected)

    def admin(self, *words: str) -> subprocess.CompletedProcess[str]:
        arguments = [*COMMAND, "admin", *words, "--socket", str(self.admin_socket)]
        return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=20)

    def metric(self, name: str) -> int:
        found = re.search(rf"^postern_relay_{re.escape(name)} (\d+)$", fetch(self.here, "metrics")[1], re.MULTILINE)
        return 0 if found is None else int(found[1])


def allocate(client: TurnWire, version: int = 4) -> int:
    family = RequestedAddressFamily(AddressFamily.IPV4 if version == 4 else AddressFamily.IPV6)
    return client.allocate(family)
