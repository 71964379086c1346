"""``postern relay --config`` as a process: UDP, TCP and TLS, SIGHUP, the admin socket, and what may not end it."""

import hmac
import json
import signal
import socket
import ssl
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from connectivity.endpoint import Endpoint
from connectivity.stun import (
    AddressFamily,
    Data,
    Icmp,
    Lifetime,
    Method,
    RequestedAddressFamily,
    RequestedTransport,
    XorPeerAddress,
)
from lab.processes import wait_until
from relay.core import Transport
from tests.documented import claimed
from tests.netns.plain_pair import entered, ip
from tests.netns.relay_stage import COMMAND, FAR, RELAY, fetch, run_to_its_end
from tests.netns.standalone import CHANNEL, FILE, StandAlone, allocate
from tests.netns.turn_wire import TurnWire
from tests.unit.relay.playbook import attribute_of, error_code
from tests.unit.relay.test_relay_config_file import make_certificate

pytestmark = pytest.mark.root


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandAlone]:
    with ExitStack() as module:
        yield StandAlone(module, tmp_path_factory.mktemp("relay"))


@pytest.mark.parametrize("transport", list(Transport))
@pytest.mark.parametrize("version", [4, 6])
def test_data_goes_both_ways(relay: StandAlone, transport: Transport, version: int) -> None:
    client = relay.client(transport, version)
    peer, address = relay.peer(version)
    relayed = Endpoint(RELAY[version], allocate(client, version))
    assert error_code(client.bind(CHANNEL, address)) == 0
    payloads = [bytes([index]) * (100 + index) for index in range(40)]
    for payload in payloads:
        client.send_data(CHANNEL, payload)
    assert sorted(peer.recv(2000) for _ in payloads) == payloads  # the kernel may swap some between processors
    for payload in payloads:
        peer.sendto(payload, (str(relayed.ip), relayed.port))
    assert sorted(client.read_data() for _ in payloads) == [(CHANNEL, payload) for payload in payloads]
    assert error_code(client.call(Method.REFRESH, Lifetime(0))) == 0


def test_a_stream_may_be_cut_anywhere_and_its_end_is_the_end_of_the_allocation(relay: StandAlone) -> None:
    client = relay.client(Transport.TCP)
    peer, address = relay.peer()
    port = allocate(client)
    client.bind(CHANNEL, address)
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in b"\x40\x00\x00\x05hello\0\0\0\x40\x00\x00\x03you\0":
        client.write(bytes([byte]))
    assert [peer.recv(100), peer.recv(100)] == [b"hello", b"you"]
    client.socket.close()
    wait_until(lambda: f"Deleted allocation port={port} reason=connection closed" in relay.log(), "it is deleted")


def test_what_carries_no_turn_is_closed(relay: StandAlone) -> None:
    client = relay.client(Transport.TCP)
    client.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # TLS, where it is not spoken
    assert client.socket.recv(100) == b""


@pytest.mark.parametrize("version", [4, 6])
def test_icmp_errors_reach_the_client_and_cost_no_datagram(relay: StandAlone, version: int) -> None:
    client = relay.client(version=version)
    allocate(client, version)
    peer, address = relay.peer(version)
    closed = Endpoint(FAR[version], 9)
    for to in (address, closed):
        assert error_code(client.call(Method.CREATE_PERMISSION, XorPeerAddress(to))) == 0
    client.bind(CHANNEL, address)
    client.bind(CHANNEL + 1, closed)
    for number in range(5):
        client.send_data(CHANNEL + 1, b"nobody there")
        message = client.read_message()
        icmp = attribute_of(message, Icmp)
        assert (icmp.type, icmp.code) == ((3, 3) if version == 4 else (1, 4))
        assert message.get(Data) is None
        assert attribute_of(message, XorPeerAddress).endpoint == closed
        client.send_data(CHANNEL, bytes([number]))
        assert peer.recv(10) == bytes([number])
    client.call(Method.REFRESH, Lifetime(0))


def test_people_see_and_end_allocations_and_change_the_log(relay: StandAlone) -> None:
    client = relay.client(Transport.TCP)
    peer, address = relay.peer()
    port = allocate(client)
    client.bind(CHANNEL, address)
    client.send_data(CHANNEL, b"12345")
    peer.recv(10)
    assert relay.admin_socket.stat().st_mode & 0o777 == 0o600
    (row,) = [line for line in relay.admin("list").stdout.splitlines() if line.startswith(str(port))]
    assert row.split()[1:4] == ["tcp", str(client.endpoint), "alice"]
    shown: dict[str, Any] = json.loads(relay.admin("show", str(port)).stdout)
    assert (shown["to_peer_packets"], shown["to_peer_bytes"], shown["families"]) == (1, 5, ["ipv4"])
    assert [(channel["number"], channel["peer"]) for channel in shown["channels"]] == [("0x4000", str(address))]
    assert list(shown["permissions"]) == [str(address.ip)]

    assert json.loads(relay.admin("offload").stdout) == {"mode": "off", "reason": "not asked for", "egress": {}}
    assert relay.admin("log", "debug").returncode == 0
    client.call(Method.REFRESH)
    wait_until(lambda: "DEBUG relay: " in relay.log(), "debug lines come")
    assert relay.admin("log", "info").returncode == 0
    refused = relay.admin("log", "loud")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "expected off, error" in refused.stderr

    assert relay.admin("end", str(port)).returncode == 0
    assert error_code(client.call(Method.REFRESH)) == 437
    gone = relay.admin("show", str(port))
    assert (gone.returncode, gone.stderr) == (1, f"postern relay: no allocation has port {port}\n")


def test_what_the_kernel_takes_as_its_own_is_no_peer(relay: StandAlone) -> None:
    """A router's anycast address of the subnet, and a prefix made local (AnyIP); a channel is there already."""
    for version, there in ((6, "2001:db8::"), (4, "198.51.100.200")):
        with entered(relay.here):
            service = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
            service.bind(("", 0))
        relay.stack.enter_context(service)
        peer = Endpoint(ip_address(there), service.getsockname()[1])
        client = relay.client(version=version)
        client.allocate(*([] if version == 4 else [RequestedAddressFamily(AddressFamily.IPV6)]))
        assert error_code(client.bind(CHANNEL, peer)) == 0
        if version == 6:
            ip("netns", "exec", relay.here, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        else:
            ip("-n", relay.here, "route", "add", "local", "198.51.100.200/30", "dev", "lo")
        wait_until(partial(_is_refused, client, peer), f"IPv{version}: the relay knows")
        client.send_data(CHANNEL, b"to a service of the host")
        assert error_code(client.bind(CHANNEL, peer)) == 403
        service.setblocking(False)
        with pytest.raises(BlockingIOError):
            service.recv(100)


def _is_refused(client: TurnWire, peer: Endpoint) -> bool:
    return error_code(client.call(Method.CREATE_PERMISSION, XorPeerAddress(peer))) == 403


def test_the_documented_commands(relay: StandAlone) -> None:
    port = allocate(relay.client())
    *commands, reload = claimed("test_relay_standalone::test_the_documented_commands")
    for command in commands:
        words = command.removeprefix("postern relay admin ").replace("50123", str(port)).split()
        done = relay.admin(*words)
        assert done.returncode == 0, done.stderr
    assert relay.admin("log", "info").returncode == 0
    assert relay.admin("show", str(port)).returncode == 1  # the last of them ended it
    before = relay.log().count("Configuration read again")
    subprocess.run(reload.replace("PID", str(relay.process.pid)).split(), check=True, timeout=10)
    wait_until(lambda: relay.log().count("Configuration read again") > before, "the file is read again")


def test_mistakes_of_people_are_one_line(relay: StandAlone) -> None:
    for words, expected in (
        (("shout",), "'shout': expected list, show PORT, end PORT, offload or log FILTER"),
        (("show", "it"), "'it': expected the port of an allocation"),
    ):
        ended = relay.admin(*words)
        assert (ended.returncode, ended.stderr) == (2, f"postern relay: {expected}\n")
    nobody = subprocess.run([*COMMAND, "admin", "--socket", "/none"], capture_output=True, text=True, check=False)
    assert (nobody.returncode, nobody.stderr) == (
        1,
        "postern relay: no relay answers at /none: No such file or directory\n",
    )


def test_a_file_that_is_read_again(stack: ExitStack, tmp_path: Path) -> None:
    relay = StandAlone(stack, tmp_path)
    kept, moved = relay.client(Transport.TLS), relay.client(username="bob")
    port = allocate(kept)
    peer, address = relay.peer()
    kept.bind(CHANNEL, address)

    relay.reload("realm: [", "ERROR relay: Kept the old configuration")
    allocate(moved)
    moved.call(Method.REFRESH, Lifetime(0))

    make_certificate(tmp_path, "second.example.org")
    relay.reload(FILE.replace(", bob: secret", ", carol: secret"), "Configuration read again")
    assert "WARN" not in relay.log()
    assert error_code(moved.call(Method.ALLOCATE, RequestedTransport(17))) == 401
    allocate(relay.client(username="carol"))
    newcomer = relay.client(Transport.TLS)
    assert ssl.DER_cert_to_PEM_cert(newcomer.certificate) == (tmp_path / "cert.pem").read_text()
    assert newcomer.certificate != kept.certificate
    kept.send_data(CHANNEL, b"still here")
    assert peer.recv(100) == b"still here"

    changed = FILE.replace("realm: example.org", "realm: example.com\nports: [50000, 50001]").replace(
        "198.51.100.0/24, ", ""
    )
    relay.reload(changed, "Configuration read again")
    assert "WARN relay: Some settings change only with a restart kept=realm,lowest_port,highest_port" in relay.log()
    assert "Ended allocations whose credentials count no more allocations=1" in relay.log()  # carol's
    kept.send_data(CHANNEL, b"no longer allowed")
    peer.setblocking(False)
    assert error_code(kept.call(Method.REFRESH)) == 0  # which comes after the data
    with pytest.raises(BlockingIOError):
        peer.recv(100)
    assert relay.admin("show", str(port)).returncode == 0


def test_a_secret_of_rest_names_takes_anothers_place_and_a_call_goes_on(stack: ExitStack, tmp_path: Path) -> None:
    def secrets(*texts: str) -> str:
        return FILE.replace("users: {alice: secret, bob: secret}", f"rest_secrets: [{', '.join(texts)}]")

    def caller(secret: str) -> TurnWire:
        name = f"{int(time.time()) + 3600}:alice"
        password = b64encode(hmac.digest(secret.encode(), name.encode(), "sha1")).decode()
        return TurnWire(stack, alone.there, username=name, password=password)

    old, new = "the-secret-of-before", "the-secret-from-now-on"
    alone = StandAlone(stack, tmp_path, file=secrets(old))
    call, again = caller(old), caller(old)
    allocate(call)
    peer, address = alone.peer()
    call.bind(CHANNEL, address)

    alone.reload(secrets(new, old), "changed=rest_secrets 1 → 2")
    allocate(caller(new))
    allocate(again)
    assert error_code(call.call(Method.REFRESH)) == 0
    call.send_data(CHANNEL, b"it goes on")
    assert peer.recv(100) == b"it goes on"

    alone.reload(secrets(new), "changed=rest_secrets 2 → 1")
    assert error_code(caller(old).call(Method.ALLOCATE, RequestedTransport(17))) == 401
    allocate(caller(new))
    assert "Ended allocations whose credentials count no more allocations=2" in alone.log()  # those of the old one


def test_an_admin_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not(
    stack: ExitStack, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as abandoned:
        abandoned.bind(str(tmp_path / "admin.sock"))
    relay = StandAlone(stack, tmp_path)
    assert relay.admin("list").returncode == 0
    assert relay.admin_socket.stat().st_mode & 0o777 == 0o600
    (tmp_path / "other.yaml").write_text(FILE.replace("3478", "3479").replace("5349", "5350"))
    environment = {"HEALTH_CHECK_ADDR": "127.0.0.1:8090", "POSTERN_ADMIN_SOCKET": str(relay.admin_socket)}
    ended = run_to_its_end(relay.here, environment, "--config", str(tmp_path / "other.yaml"))
    assert ended == (1, f"postern relay: cannot serve the admin socket {relay.admin_socket}: another process serves it")
    assert relay.admin("list").returncode == 0


def test_a_drain_with_streams_and_its_end(stack: ExitStack, tmp_path: Path) -> None:
    relay = StandAlone(stack, tmp_path)
    client = relay.client(Transport.TCP)
    allocate(client)
    relay.process.send_signal(signal.SIGTERM)
    wait_until(lambda: fetch(relay.here, "readyz")[0] == 503, "it drains")
    newcomer = relay.client(Transport.TLS)
    assert error_code(newcomer.call(Method.ALLOCATE, RequestedTransport(17))) in {300, 486, 508}
    assert error_code(client.call(Method.REFRESH)) == 0
    client.socket.close()
    assert relay.process.wait(20) == 0
    assert not relay.admin_socket.exists()


@pytest.mark.parametrize("wanted", [False, True])
def test_generic_mode_offloads_towards_clients_where_the_file_says_so(
    stack: ExitStack, tmp_path: Path, wanted: bool
) -> None:
    offload = f"ebpf: {{interfaces: [veth0], mode: generic, generic_from_peer: {str(wanted).lower()}}}\n"
    relay = StandAlone(stack, tmp_path, file=FILE + offload)
    client = relay.client()
    peer, address = relay.peer()
    port = allocate(client)
    client.bind(CHANNEL, address)
    client.send_data(CHANNEL, b"there")
    assert peer.recv(10) == b"there"
    peer.sendto(b"and back", (str(RELAY[4]), port))
    assert client.read_data() == (CHANNEL, b"and back")
    assert relay.metric('packets_total{path="xdp",direction="to_peer"}') == 1
    carried = {
        path: relay.metric(f'packets_total{{path="{path}",direction="to_client"}}') for path in ("xdp", "python")
    }
    assert carried == ({"xdp": 1, "python": 0} if wanted else {"xdp": 0, "python": 1})


def test_a_client_that_does_not_read_loses_data_and_nobody_else_does(stack: ExitStack, tmp_path: Path) -> None:
    relay = StandAlone(stack, tmp_path)
    lazy, other = relay.client(Transport.TCP), relay.client(Transport.TCP)
    lazy.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer, address = relay.peer()
    ports = [allocate(client) for client in (lazy, other)]
    for client in (lazy, other):
        client.bind(CHANNEL, address)
    deadline = time.monotonic() + 60
    while not relay.metric('stream_events_total{event="write_dropped"}'):
        assert time.monotonic() < deadline
        for _ in range(1000):
            peer.sendto(bytes(1200), (str(RELAY[4]), ports[0]))
    peer.sendto(b"for the other", (str(RELAY[4]), ports[1]))
    assert other.read_data() == (CHANNEL, b"for the other")


def test_a_user_on_both_paths_has_the_bandwidth_once(stack: ExitStack, tmp_path: Path) -> None:
    content = f"{FILE}quotas: {{bandwidth_per_user: 80K}}\nebpf: {{interfaces: [veth0], mode: native}}\n"
    relay = StandAlone(stack, tmp_path, file=content)
    by_xdp, by_python = relay.client(), relay.client(Transport.TCP)
    _, address = relay.peer()
    for client in (by_xdp, by_python):
        allocate(client)
        assert error_code(client.bind(CHANNEL, address)) == 0
    started = time.monotonic()
    for client in (by_xdp, by_python):
        for _ in range(24):
            client.send_data(CHANNEL, bytes(500))
    assert error_code(by_python.call(Method.REFRESH)) == 0  # which comes after the data
    xdp, python = (relay.metric(f'packets_total{{path="{path}",direction="to_peer"}}') for path in ("xdp", "python"))
    rate, elapsed = 10_000, time.monotonic() - started
    assert xdp >= 20
    assert (xdp + python - 2) * 500 <= rate * (1 + elapsed)


@pytest.mark.parametrize("transport", list(Transport))
def test_telemetry_on_stdout_and_logs_in_json(stack: ExitStack, tmp_path: Path, transport: Transport) -> None:
    environment = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "console", "LOG_FORMAT": "json"}
    relay = StandAlone(stack, tmp_path, environment)
    client = relay.client(transport)
    port = allocate(client)
    client.bind(CHANNEL, relay.peer()[1])
    client.call(Method.REFRESH)
    client.call(Method.REFRESH, Lifetime(0))
    relay.process.send_signal(signal.SIGTERM)
    assert relay.process.wait(20) == 0
    assert relay.process.stdout is not None
    lines = [json.loads(line) for line in relay.process.stdout.read().splitlines()]
    (span,) = [line for line in lines if line.get("name") == "allocation"]
    expected = {"turn.relayed_port": port, "turn.families": "ipv4", "network.transport": transport.value}
    assert span["attributes"] == expected
    assert [event["name"] for event in span["events"]] == ["channel relays", "channel goes on", "channel ends"]
    (scope,) = [line for line in lines if "resource_metrics" in line][-1]["resource_metrics"][0]["scope_metrics"]
    names = {metric["name"] for metric in scope["metrics"]}
    assert {"postern.relay.packets", "postern.relay.allocations", "postern.relay.responses"} <= names
    said = [json.loads(line) for line in relay.log().splitlines()]
    assert {"time", "severity", "target", "message"} <= set(said[0])
    assert "alice" not in relay.log()
