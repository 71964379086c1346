"""``postern relay`` as a process: let in by a portal, with clients and peers over a wire; and how it fails to start."""

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from connectivity.endpoint import Endpoint
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
from relay.core import ToClient
from tests.netns.plain_pair import entered, ip, namespaces
from tests.netns.relay_stage import (
    ENVIRONMENT,
    FAR,
    GOOD_TOKEN,
    RELAY,
    Portal,
    WireClient,
    bound,
    decided_offload,
    fetch,
    readiness,
    receive,
    run_to_its_end,
    running,
)
from tests.unit.relay.playbook import attribute_of, channel_message, error_code

pytestmark = pytest.mark.root

IP_RECVTTL = 12  # linux/in.h


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
    assert readiness(pair[0], 200) == {"ready": True, "draining": False, "portal": "joined"}
    assert decided_offload(pair[0]) == {"mode": "off", "reason": "not asked for", "egress": {}}
    assert (
        'postern_relay_responses_total{response_class="success",message_type="binding"' in fetch(pair[0], "metrics")[1]
    )


def test_hops_are_counted_anew(stack: ExitStack, pair: tuple[str, str], secret: str) -> None:
    client = WireClient(stack, pair[1], 4, secret)
    with entered(pair[1]):
        peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    peer.bind((str(FAR[4]), 0))
    peer.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    peer.settimeout(20)
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
        assert readiness(names[0], 200) == {"ready": True, "draining": False, "portal": "joined"}
        portal.close()
        assert readiness(names[0], 503) == {"ready": False, "draining": False, "portal": "away"}
        assert fetch(names[0], "healthz")[0] == 200
        assert error_code(client.call(Method.REFRESH)) == 0
        returned = Portal(names[0])
        stack.callback(returned.close)
        assert returned.wait_join() == secret
        assert readiness(names[0], 200) == {"ready": True, "draining": False, "portal": "joined"}
        process.send_signal(signal.SIGHUP)  # systemctl reload: there is no file to read, and nobody is dropped
        assert error_code(client.call(Method.REFRESH)) == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_the_kernel_takes_over_and_python_takes_what_it_leaves() -> None:
    with namespaces() as names, ExitStack() as stack:
        # A veth takes frames from XDP only if its far end does GRO or has a program too.
        ip("netns", "exec", names[1], "ethtool", "-K", "veth0", "gro", "on")
        portal = Portal(names[0])
        stack.callback(portal.close)
        process = stack.enter_context(running(names[0], {**ENVIRONMENT, "POSTERN_EBPF_INTERFACES": "veth0"}))
        client = WireClient(stack, names[1], 4, portal.wait_join())
        peer = bound(stack, names[1], 6)
        offload = decided_offload(names[0])
        assert (offload["mode"], offload["egress"]) == ("native", {"veth0": "verified"}), offload
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
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
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
        first.call(Method.REFRESH, Lifetime(0))
        assert error_code(second.call(Method.ALLOCATE, RequestedTransport(17))) == 0


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
