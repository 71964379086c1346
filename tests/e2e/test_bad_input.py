"""Every way to start a part wrongly: one line that names all that is wrong, the right exit code, nothing left behind.

One lab serves all: a running portal, and namespaces where nothing else runs.
"""

import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from lab.plan import LabSettings, Nat, relay_site
from lab.processes import wait_until
from lab.stack import API_URL, Stack
from lab.topology import Lab
from tests.e2e.stage import POSTERN, Ended, run_to_end, traces
from tests.netns.plain_pair import entered

pytestmark = pytest.mark.root

WRONG: Final = "a-wrong-token-that-no-line-may-show"
# Empty directory where the device node should be; what follows runs there.
NO_NODE: Final = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
READ_ONLY: Final = 'mount -o remount,bind,ro /etc/resolv.conf && exec "$@"'
UNMOUNTED: Final = 'mount -t tmpfs none /dev/net && exec "$@"'


def without(*capabilities: str) -> tuple[str, ...]:
    """A launcher that takes privileges away."""
    minus = ",".join(f"-{name}" for name in capabilities)
    return ("setpriv", "--bounding-set", minus, "--inh-caps", minus, "--")


@dataclass(frozen=True)
class Case:
    """One wrong start; ``parts`` all have to be in its line. ``{token}`` in a value is the part's right token."""

    service: str
    code: int
    parts: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()


TUNNEL: Final = {"FIREZONE_API_URL": API_URL, "FIREZONE_TOKEN": "{token}", "FIREZONE_ID": "bad", "FIREZONE_NAME": "bad"}
BASE: Final = {
    "client": {**TUNNEL, "FIREZONE_DNS_CONTROL": "disabled"},
    "gateway": TUNNEL,
    "relay": {
        "FIREZONE_API_URL": API_URL,
        "FIREZONE_TOKEN": "{token}",
        "PUBLIC_IP4_ADDR": relay_site(1).address,
    },
    "portal": {},
}
UNAUTHORIZED: Final = ("Failed to login to portal: Failed to establish WebSocket connection: 401 Unauthorized",)
UNRESOLVED: Final = {"FIREZONE_API_URL": "ws://portal.nowhere"}
NATIVE: Final = {"POSTERN_EBPF": "native", "POSTERN_EBPF_INTERFACES": "eth0"}
WITHOUT_BPF: Final = (sys.executable, str(Path(__file__).with_name("without_bpf.py")))

CASES: Final = {
    "wrong token of a client": Case("client", 1, UNAUTHORIZED, {"FIREZONE_TOKEN": WRONG}),
    "wrong token of a gateway": Case("gateway", 1, UNAUTHORIZED, {"FIREZONE_TOKEN": WRONG}),
    "wrong token of a relay": Case("relay", 1, UNAUTHORIZED, {"FIREZONE_TOKEN": WRONG}),
    "no token of a client": Case(
        "client", 1, ("Can't find the Firezone token in $FIREZONE_TOKEN or in '/none'",), {"FIREZONE_TOKEN": ""},
        ("--token-path", "/none"),
    ),
    "no token of a gateway": Case("gateway", 2, ("FIREZONE_TOKEN is not set",), {"FIREZONE_TOKEN": ""}),
    "no token of a relay": Case("relay", 2, ("FIREZONE_TOKEN is not set",), {"FIREZONE_TOKEN": ""}),
    "token file for all": Case(
        "client", 1, ("Token file '/etc/hostname' must belong to root and be readable by root only",),
        {"FIREZONE_TOKEN": "", "FIREZONE_TOKEN_PATH": "/etc/hostname"},
    ),
    "unknown host of a client": Case("client", 1, ("Failed to resolve portal host 'portal.nowhere'",), UNRESOLVED),
    "unknown host of a gateway": Case("gateway", 1, ("Failed to resolve portal host 'portal.nowhere'",), UNRESOLVED),
    "unknown host of a relay": Case("relay", 1, ("Failed to resolve portal host 'portal.nowhere'",), UNRESOLVED),
    "unknown flag": Case("gateway", 2, ("--nope is not a flag of postern gateway",), {}, ("--nope",)),
    "flag without its value": Case("client", 2, ("--firezone-name needs a value",), {}, ("--firezone-name",)),
    "several mistakes": Case(
        "client",
        2,
        (
            "FIREZONE_API_URL is 'nonsense': expected a URL",
            "RUST_LOG is 'loud': expected off, error",
            "POSTERN_STATUS_ADDR is '9100': expected",
            "POSTERN_TYPO is not a known setting",
            "--nope is not a flag",
            "Can't find the Firezone token",
        ),
        {
            "FIREZONE_API_URL": "nonsense",
            "FIREZONE_TOKEN": "",
            "RUST_LOG": "loud",
            "POSTERN_STATUS_ADDR": "9100",
            "POSTERN_TYPO": "1",
        },
        ("--nope", "--token-path", "/none"),
    ),
    "no public address": Case("relay", 1, ("set PUBLIC_IP4_ADDR, PUBLIC_IP6_ADDR or both",), {"PUBLIC_IP4_ADDR": ""}),
    "no such interface": Case(
        "relay", 1, ("cannot offload: no such network interface: nope0",), {"POSTERN_EBPF_INTERFACES": "nope0"}
    ),
    "no such interfaces, demanded": Case(
        "relay", 1, ("cannot offload: no such network interface: nope0, nope1",),
        {"EBPF_OFFLOADING": "nope0,eth0,nope1"},
    ),
    "interface without native XDP, demanded": Case(
        "relay", 1, ("cannot offload: cannot attach to lo in native mode: Operation not supported",),
        {"EBPF_OFFLOADING": "lo"},
    ),
    "offload demanded of no interface": Case(
        "relay", 2, ("POSTERN_EBPF is 'native': expected POSTERN_EBPF_INTERFACES with it",), {"POSTERN_EBPF": "native"}
    ),
    "no kernel headers": Case(
        "relay", 1, ("BCC_KERNEL_SOURCE=/nonexistent is no complete kernel header tree",),
        {**NATIVE, "BCC_KERNEL_SOURCE": "/nonexistent"},
    ),
    "kernel without BPF": Case(
        "relay", 1, ("cannot offload: bpf(2) is not available: Function not implemented",), NATIVE, (), WITHOUT_BPF
    ),
    "no privileges for BPF": Case(
        "relay",
        1,
        ("CAP_BPF is missing (to load programs and maps)", "CAP_PERFMON is missing", "CAP_NET_RAW is missing"),
        NATIVE,
        (),
        without("bpf", "perfmon", "sys_admin", "net_raw"),
    ),
    "no device node": Case(
        "client",
        1,
        ("cannot open /dev/net/tun for device", "it is missing and cannot be made: making it takes CAP_MKNOD,"),
        {},
        (),
        (*NO_NODE, UNMOUNTED, "sh", *without("mknod")),
    ),
    "no systemd-resolved": Case(
        "client",
        1,
        ("FIREZONE_DNS_CONTROL=systemd-resolved: ", ": choose etc-resolv-conf, where /etc/resolv.conf is a regular"),
        {"FIREZONE_DNS_CONTROL": "", "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/none"},
    ),
    "a resolv.conf that is read-only": Case(
        "client",
        1,
        ("FIREZONE_DNS_CONTROL=etc-resolv-conf: /etc/resolv.conf cannot be written (Read-only file system): make it",),
        {"FIREZONE_DNS_CONTROL": "etc-resolv-conf"},
        (),
        (*NO_NODE, READ_ONLY, "sh"),
    ),
    "no privilege for the device": Case(
        "gateway",
        1,
        ("cannot create TUN device tun-firezone: making it takes CAP_NET_ADMIN",),
        {},
        (),
        without("net_admin"),
    ),
    "no privilege for the sockets": Case(
        "client",
        1,
        ("no UDP socket could be bound: marking the UDP socket (SO_MARK) takes CAP_NET_ADMIN",),
        {},
        (),
        without("net_admin", "net_raw"),
    ),
    "no privilege for the port": Case(
        "relay",
        1,
        ("cannot listen on UDP port 53 over IPv4: listening on a port below 1024 takes CAP_NET_BIND_SERVICE, which",),
        {"LISTEN_PORT": "53"},
        (),
        without("net_bind_service"),
    ),
    "file of a relay together with a portal": Case(
        "relay",
        2,
        (
            "cannot read /none: No such file",
            "FIREZONE_API_URL is set together with a file for the relay: expected only one of the two",
            "FIREZONE_TOKEN is set together with",
            "PUBLIC_IP4_ADDR is set together with",
        ),
        {},
        ("--config", "/none"),
    ),
    "admin socket in no folder": Case(
        "relay", 1, ("cannot serve the admin socket /none/relay.sock: No such file",),
        {"POSTERN_ADMIN_SOCKET": "/none/relay.sock"},
    ),
    "admin without its relay": Case("relay", 1, ("no relay answers at /none",), {}, ("admin", "--socket", "/none")),
    "file of the portal missing": Case("portal", 2, ("cannot read /none: No such file",), {}, ("--config", "/none")),
    "no file of the portal": Case("portal", 2, ("POSTERN_PORTAL_CONFIG (or --config) is not set",)),
}  # fmt: skip


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Lab(LabSettings(Nat.SYMMETRIC, Nat.SYMMETRIC)) as lab:  # the name server reaches all from behind NATs
        stack = Stack(lab)
        stack.start_nameserver()
        stack.start_portal()
        yield stack


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_one_line_names_it_all_and_nothing_is_left(stack: Stack, case: Case) -> None:
    ended = start(stack, case)
    line = ended.complaint(case.code)
    assert line.startswith(f"postern {case.service}: ")
    for part in case.parts:
        assert part in line
    assert WRONG not in ended.errors


def test_busy_ports(stack: Stack) -> None:
    relay = stack.lab.relay
    with occupied(relay, 3478, socket.SOCK_DGRAM):
        complaint = start(stack, Case("relay", 1, ())).complaint(1)
        assert complaint == "postern relay: cannot listen on UDP port 3478 over IPv4: Address already in use"
    with occupied(relay, 8080, socket.SOCK_STREAM):
        complaint = start(stack, Case("relay", 1, ())).complaint(1)
        assert complaint.startswith("postern relay: cannot serve health checks on TCP 0.0.0.0:8080: ")
        assert "ddress already in use" in complaint
    with occupied(stack.lab.gateway, 8080, socket.SOCK_STREAM):
        complaint = start(stack, Case("gateway", 1, ())).complaint(1)
        assert complaint == (
            "postern gateway: cannot listen on 0.0.0.0:8080 for health and status: Address already in use"
        )
    with occupied(stack.lab.client, 9100, socket.SOCK_STREAM):
        complaint = start(stack, Case("client", 1, (), {"POSTERN_STATUS_ADDR": "127.0.0.1:9100"})).complaint(1)
        assert complaint == (
            "postern client: cannot listen on 127.0.0.1:9100 for health and status: Address already in use"
        )
    arguments = ("--config", str(stack.lab.logs / "portal.yaml"))
    complaint = start(stack, Case("portal", 1, (), {}, arguments)).complaint(1)
    assert complaint == "postern portal: cannot listen on 0.0.0.0:8081: Address already in use"


def test_three_mistakes_in_the_portal_file(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "portal.yaml"
    content = (stack.lab.logs / "portal.yaml").read_text(encoding="utf-8")
    for right, wrong in (
        ("type: gateway", "type: gatewy"),
        ("172.20.0.0/24", "172.20.0.1/24"),
        ("sites:\n", "sits:\n"),
    ):
        assert right in content
        content = content.replace(right, wrong, 1)
    path.write_text(content, encoding="utf-8")
    line = start(stack, Case("portal", 2, (), {}, ("--config", str(path)))).complaint(2)
    for part in ("resources[0].address is '172.20.0.1/24'", "tokens[1].type is 'gatewy'", "sits is not a known key"):
        assert part in line
    assert stack.tokens.gateway not in line


def test_mistakes_in_the_file_of_a_relay(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "relay.yaml"
    alone = {"FIREZONE_API_URL": "", "FIREZONE_TOKEN": "", "PUBLIC_IP4_ADDR": ""}
    case = Case("relay", 2, (), alone, ("--config", str(path)))
    path.write_text(f"relm: x\npublic: {{ipv4: 203.0.113}}\nusers: {{alice: [{WRONG}]}}\nports: 5\n", encoding="utf-8")
    ended = start(stack, case)
    line = ended.complaint(2)
    for part in (
        "realm is missing",
        "public.ipv4 is '203.0.113': expected",
        "users.'alice' is (hidden)",
        "ports is 5:",
    ):
        assert part in line
    assert "relm is not a known key" in line
    assert WRONG not in ended.errors

    # What an interface has, in a file that others may not read: or else there are warnings, too.
    address = relay_site(1).address
    path.write_text(f"realm: x\npublic: {{ipv4: {address}}}\nusers: {{alice: secret}}\n", encoding="utf-8")
    path.chmod(0o600)
    with occupied(stack.lab.relay, 3478, socket.SOCK_STREAM):
        complaint = start(stack, case).complaint(1)
    assert complaint == "postern relay: cannot listen on TCP port 3478 over IPv4: Address already in use"


def test_without_arguments_the_usage(stack: Stack) -> None:
    ended = run_to_end(stack.lab.client, [], {})
    assert (ended.code, ended.output) == (2, "")
    assert ended.errors.startswith("usage: postern COMMAND [flags]")
    line = run_to_end(stack.lab.client, ["gatewy"], {}).complaint(2)
    assert line.startswith("postern: 'gatewy' is not a command: expected one of relay, gateway, client, portal")


def test_the_device_node_is_made_where_it_is_missing(stack: Stack) -> None:
    env = {**BASE["client"], "FIREZONE_TOKEN": stack.tokens.client}
    argv = [*NO_NODE, UNMOUNTED, "sh", *POSTERN, "client"]
    before = traces(stack.lab.client)
    client = stack.lab.spawn("client", stack.lab.client, argv, env)
    wait_until(lambda: "Tunnel ready" in client.log_text(), "the tunnel is ready", [client])
    assert client.terminate() == 0
    assert traces(stack.lab.client) == before


def test_a_relay_that_only_prefers_to_offload_serves_without_bpf(stack: Stack) -> None:
    env = {**BASE["relay"], "FIREZONE_TOKEN": stack.tokens.relay, "POSTERN_EBPF_INTERFACES": "eth0"}
    relay = stack.lab.spawn("relay", stack.lab.relay, [*WITHOUT_BPF, *POSTERN, "relay"], env)
    wait_until(lambda: "Joined the portal" in relay.log_text(), "the relay has joined", [relay])
    wait_until(lambda: "offload is off" in relay.log_text(), "the offload is decided", [relay])
    assert stack.xdp_mode() == "off"
    warnings = [line for line in relay.log_text().splitlines() if " WARN " in line]
    assert len(warnings) == 1
    assert "offload is off" in warnings[0]
    assert "bpf(2) is not available" in warnings[0]
    assert relay.terminate() == 0


def start(stack: Stack, case: Case) -> Ended:
    """Start a part wrongly; its namespace looks as before when it has ended."""
    lab = stack.lab
    right = {"client": stack.tokens.client, "gateway": stack.tokens.gateway, "relay": stack.tokens.relay, "portal": ""}
    env = {
        name: value.replace("{token}", right[case.service])
        for name, value in {**BASE[case.service], **case.env}.items()
    }
    namespace = lab.namespace(case.service)
    before = traces(namespace)
    ended = run_to_end(namespace, [case.service, *case.arguments], env, case.launcher)
    assert traces(namespace) == before
    return ended


@contextmanager
def occupied(namespace: str, port: int, kind: socket.SocketKind) -> Iterator[None]:
    """A port that somebody else has."""
    with ExitStack() as stack:
        with entered(namespace):
            other = stack.enter_context(socket.socket(socket.AF_INET, kind))
        other.bind(("0.0.0.0", port))
        if kind is socket.SOCK_STREAM:
            other.listen()
        yield
