"""A client's host for tests of its DNS: a lab whose client asks real name servers.

[client]──NAT──[internet: 203.0.113.0/24]──[portal's host: unbound or dnsmasq over IPv4, dnsmasq over IPv6]

The client's ``resolv.conf`` lies where ``ip netns exec`` takes it from: every program of that namespace has it as a
mount of its own over ``/etc/resolv.conf``, as in a container.
"""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from lab.errors import LabError
from lab.plan import APP_NAME, PORTAL, LabSettings, Underlay
from lab.processes import Process, wait_until
from lab.stack import API_URL, Stack, postern_command
from lab.topology import Lab
from tests.netns import site_servers

RESOURCE_NAME: Final = APP_NAME  # for the client's own servers it stands for other addresses
HOST_TEXT: Final = f"# the host's own\nnameserver {PORTAL.address}\nnameserver {PORTAL.address6}\n"
SENTINELS: Final = ("100.100.111.", "fd00:2021:1111:8000:100:100:111:")


class ClientHost:
    """The lab, with everything up but the client."""

    def __init__(self, lab: Lab, stack: Stack) -> None:
        self.lab = lab
        self.resolv_conf = Path("/etc/netns") / lab.client / "resolv.conf"
        self._stack = stack
        self._starts = 0

    def start(self, mode: str, **environment: str) -> Process:
        """A client in this mode."""
        self._starts += 1
        env = {
            "FIREZONE_API_URL": API_URL,
            "FIREZONE_TOKEN": self._stack.tokens.client,
            "FIREZONE_NAME": "client",
            "FIREZONE_ID": "1f9a43c1-5f67-4c4e-9d7a-0a2f4a2f7a01",
            "FIREZONE_DNS_CONTROL": mode,
            "POSTERN_STATUS_SOCKET": "off",
            "RUST_LOG": "debug",
        }
        return self.lab.spawn(
            f"client-{self._starts}", self.lab.client, [str(postern_command()), "client"], env | environment
        )

    def run(self, *command: str) -> str:
        """What a program of the client's host prints."""
        return self.lab.run(self.lab.client, command)

    def dig(self, *words: str) -> list[str]:
        """The lines of a short answer, of the servers in resolv.conf or the one that is named."""
        return self.run("dig", "+short", "+tries=3", "+time=5", *words).splitlines()

    def dig_patiently(self, *words: str) -> list[str]:
        """What ``dig`` has; nothing of a server that is only about to start."""
        try:
            return self.dig(*words)
        except LabError:
            return []

    def nameservers(self) -> list[str]:
        """What resolv.conf names."""
        lines = [line.split() for line in self.resolv_conf.read_text().splitlines()]
        return [words[1] for words in lines if words[:1] == ["nameserver"]]

    def wait_for(self, client: Process, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, what, [client])

    def is_ours(self) -> bool:
        """Whether resolv.conf names sentinels only."""
        servers = self.nameservers()
        return bool(servers) and all(server.startswith(SENTINELS) for server in servers)


@contextmanager
def client_host() -> Iterator[ClientHost]:
    """It, until the end."""
    with ExitStack() as opened:
        lab = opened.enter_context(Lab(LabSettings(underlay=Underlay.DUAL)))
        stack = Stack(lab, ebpf=False)
        stack.start_nameserver()
        stack.start_portal()
        stack.start_relay()
        stack.start_gateway()
        stack.start_resource()
        if shutil.which("unbound"):
            opened.enter_context(site_servers.unbound(lab.portal, PORTAL.address, lab.logs))
        else:
            opened.enter_context(site_servers.dnsmasq(lab.portal, PORTAL.address))
        opened.enter_context(site_servers.dnsmasq(lab.portal, PORTAL.address6))
        host = ClientHost(lab, stack)
        host.resolv_conf.write_text(HOST_TEXT)
        yield host


def end(client: Process, number: signal.Signals = signal.SIGTERM) -> int:
    """End a client; its code."""
    client.popen.send_signal(number)
    return client.popen.wait(20)
