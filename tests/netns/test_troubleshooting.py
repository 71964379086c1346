"""The commands of the operator's page, on a running stack: each shows what the page says that it shows."""

import os
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from lab import portal_file
from lab.measure import PAGE_URL, first_answer_ms
from lab.plan import LabSettings, Nat
from lab.processes import Process, wait_until
from lab.stack import Stack, postern_command
from lab.topology import Lab
from tests.documented import ROOT, claimed

pytestmark = pytest.mark.root

README: Final = ROOT / "README.md"
# What goes on until it is stopped, and what it says once it serves.
SERVING: Final = {
    "postern portal --config portal.yaml": "Portal is listening",
    "postern relay --config relay.yaml": "Serving",
}
# What the answer of a command names here: with offload, forwarding, a relayed connection.
SHOWN: Final = {
    "curl --silent http://127.0.0.1:8080/readyz": '"egress": {"eth0": "verified"}',
    "curl --silent http://127.0.0.1:8080/metrics": 'postern_relay_packets_total{path="python"',
    "ethtool --show-features eth0": "generic-receive-offload: ",
    "ethtool --driver eth0": "driver: veth",
    "ip -details link show dev eth0": "name postern_relay",
    "ip neighbour show dev eth0": "lladdr",
    "ss --listening --udp --numeric --processes": ":3478",
    "nft list table inet postern_gateway": "masquerade",
    "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding": "ip_forward = 1\nnet.ipv6.conf.all.forwarding = 1",
    "ip route get 10.20.0.100": "10.20.0.100 via ",
    "nstat --zeros UdpRcvbufErrors UdpSndbufErrors Udp6RcvbufErrors Udp6SndbufErrors": "UdpRcvbufErrors",
    "curl --silent http://127.0.0.1:9100/status": '"path": "RelayToRelay"',
    "ip -details link show dev tun-firezone": "tun type tun",
    "ip route show table all dev tun-firezone": "172.20.0.0/24 table 539098368",
    "ip rule": "not from all fwmark 0xfd002021 lookup 539098368",
    "postern client status": "  relays 203.0.113.",
    "postern client status --json": '"path": "RelayToRelay"',
    "postern gateway status": "joined for",
    "postern status": "  relays 203.0.113.",
    "postern status --json": '"problems": []',
    "postern portal status": "1 client, 1 gateway, 1 relay",
    "postern doctor": "relay offload (XDP): ok",
    "postern doctor --json": '"healthy": true',
    "postern doctor relay": "relay offload (XDP): ok",
    "postern doctor gateway": "gateway masquerading: ok",
    "postern doctor client": "DNS of this host: ok",
    "postern relay --help": "POSTERN_EBPF_INTERFACES",
}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Lab(LabSettings(Nat.SYMMETRIC, Nat.SYMMETRIC)) as lab:
        stack = Stack(lab)
        stack.start()
        first_answer_ms(lab, PAGE_URL)
        yield stack


def test_commands_at_the_relay(stack: Stack) -> None:
    run_all(stack.lab.relay, claimed("test_troubleshooting::test_commands_at_the_relay"))


def test_commands_at_the_gateway(stack: Stack) -> None:
    run_all(
        stack.lab.gateway,
        claimed("test_troubleshooting::test_commands_at_the_gateway"),
        {"POSTERN_STATUS_SOCKET": str(stack.status_socket("gateway"))},
    )


def test_commands_at_the_client(stack: Stack) -> None:
    run_all(
        stack.lab.client,
        claimed("test_troubleshooting::test_commands_at_the_client"),
        {"POSTERN_STATUS_SOCKET": str(stack.status_socket("client"))},
    )


def test_commands_at_the_portal(stack: Stack) -> None:
    run_all(
        stack.lab.namespace("portal"),
        claimed("test_troubleshooting::test_commands_at_the_portal"),
        {"POSTERN_STATUS_SOCKET": str(stack.status_socket("portal"))},
    )


def test_commands_for_anywhere(stack: Stack, tmp_path: Path) -> None:
    commands = claimed("test_troubleshooting::test_commands_for_anywhere")
    for command in SERVING:
        commands.remove(command)
    run_all(stack.lab.user, commands)
    portal_file.write(tmp_path / "portal.yaml", portal_file.Tokens.random())
    (content,) = re.findall(r"^```yaml\n# relay.yaml\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "relay.yaml").write_text(content)
    (tmp_path / "relay.yaml").chmod(0o600)
    for number, (command, said) in enumerate(SERVING.items()):
        script = f"cd {tmp_path} && exec {_path(command)}"
        process = stack.lab.spawn(
            f"documented-{number}", stack.lab.user, ["sh", "-c", script], {"POSTERN_ADMIN_SOCKET": "off"}
        )
        wait_until(partial(_says, process, said), f"{command} serves", [process])
        assert process.terminate() == 0


def _says(process: Process, text: str) -> bool:
    return text in process.log_text()


def run_all(namespace: str, commands: list[str], settings: dict[str, str] | None = None) -> None:
    """Each as a shell runs it, with the right answer."""
    assert commands
    env = {"PATH": os.environ["PATH"]} | (settings or {})
    for command in commands:
        done = subprocess.run(
            ["ip", "netns", "exec", namespace, "sh", "-c", _path(command)],
            env=env, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert SHOWN.get(command, "") in done.stdout, command


def _path(command: str) -> str:
    return command.replace("postern ", f"{postern_command()} ", 1) if command.startswith("postern ") else command
