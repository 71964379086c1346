"""UDP sockets against a real kernel: runs, addresses, TOS, refusals. Topology: see ``plain_pair``."""

import errno
import select
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from connectivity.endpoint import Endpoint
from connectivity.io.receive_buffer import ReceiveBuffer
from connectivity.io.udp import UdpSocket
from connectivity.run import Received, Run, Transmit
from tests.netns.plain_pair import entered, ip, namespaces

pytestmark = pytest.mark.root
ADDRESSES = {4: ("198.51.100.1", "198.51.100.2"), 6: ("2001:db8::1", "2001:db8::2")}


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[str, str]]:
    with namespaces() as names:
        yield names


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def bound(stack: ExitStack, namespace: str, address: str, **switches: bool) -> UdpSocket:
    with entered(namespace):
        opened = UdpSocket.bind(address, 0, mark=0xFD002021, **switches)  # type: ignore[arg-type] # switches are booleans
    stack.callback(opened.close)
    return opened


def take(socket: UdpSocket, datagrams: int) -> list[tuple[Received, list[bytes]]]:
    """Receive until so many datagrams have come (or none for ten seconds)."""
    taken: list[tuple[Received, list[bytes]]] = []
    while datagrams > 0 and select.select([socket], [], [], 10)[0]:
        for received in socket.receive():
            segments = [bytes(segment) for segment in received.run.segments()]
            taken.append((received, segments))
            datagrams -= len(segments)
    assert datagrams == 0
    return taken


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("offloads", [{}, {"gso": False}, {"gro": False}, {"gso": False, "gro": False}])
def test_a_run_arrives_as_it_was(
    stack: ExitStack, pair: tuple[str, str], version: int, offloads: dict[str, bool]
) -> None:
    near, far = ADDRESSES[version]
    sender, receiver = bound(stack, pair[0], near, **offloads), bound(stack, pair[1], far, **offloads)
    sent = [bytes((index,)) * 1312 for index in range(120)] + [b"last one is shorter"]
    run = Run(memoryview(b"".join(sent)), 1312)
    assert sender.send(Transmit(None, Endpoint(ip_address(far), receiver.local.port), run, tos=0xBA)) is None
    taken = take(receiver, len(sent))
    assert [segment for _, segments in taken for segment in segments] == sent
    assert {(received.remote, received.local, received.tos) for received, _ in taken} == {
        (Endpoint(ip_address(near), sender.local.port), Endpoint(ip_address(far), receiver.local.port), 0xBA)
    }
    if offloads.get("gso", True):
        assert sender.counters.batches_sent == 3  # 49 segments of 1312 bytes fit into one datagram's length field
    if offloads == {}:
        assert receiver.counters.batches_received < 30
    assert sender.counters.gso_failures == 0


@pytest.mark.parametrize("version", [4, 6])
def test_the_source_address_is_ours_to_choose(stack: ExitStack, pair: tuple[str, str], version: int) -> None:
    near, far = ADDRESSES[version]
    other = "198.51.100.77" if version == 4 else "2001:db8::77"
    ip("-n", pair[0], "address", "replace", f"{other}/{32 if version == 4 else 128}", "dev", "veth0", "nodad")
    sender = bound(stack, pair[0], "0.0.0.0" if version == 4 else "::")
    receiver = bound(stack, pair[1], far)
    to = Endpoint(ip_address(far), receiver.local.port)
    for source in (near, other):
        assert sender.send(Transmit(Endpoint(ip_address(source), 1), to, Run.single(b"x"))) is None
    answers = [received.remote.ip for received, _ in take(receiver, 2)]
    assert answers == [ip_address(near), ip_address(other)]


def test_a_source_address_that_is_not_ours_is_an_error_and_blames_no_offload(
    stack: ExitStack, pair: tuple[str, str]
) -> None:
    sender = bound(stack, pair[0], "0.0.0.0")
    transmit = Transmit(
        Endpoint(ip_address("203.0.113.1"), 1),
        Endpoint(ip_address("198.51.100.2"), 9),
        Run(memoryview(bytes(200)), 100),
    )
    error = sender.send(transmit)
    assert error is not None
    assert error.errno in (errno.EINVAL, errno.ENETUNREACH, errno.EADDRNOTAVAIL)
    assert sender.gso
    assert "200 bytes in segments of 100 to 198.51.100.2:9" in str(error)


def test_an_unreachable_destination_does_not_stop_the_next(stack: ExitStack, pair: tuple[str, str]) -> None:
    sender, receiver = bound(stack, pair[0], "0.0.0.0"), bound(stack, pair[1], "198.51.100.2")
    error = sender.send(Transmit(None, Endpoint(ip_address("203.0.113.9"), 9), Run.single(b"x")))
    assert error is not None
    assert error.errno == errno.ENETUNREACH
    assert (
        sender.send(Transmit(None, Endpoint(ip_address("198.51.100.2"), receiver.local.port), Run.single(b"y"))) is None
    )
    assert take(receiver, 1)[0][1] == [b"y"]


def test_a_device_without_checksum_offload_still_gets_everything(stack: ExitStack) -> None:
    """EIO before Linux 6.11 (then single datagrams), segmentation in software since."""
    near, far = stack.enter_context(namespaces())
    switch = ["ip", "netns", "exec", near, "ethtool", "-K", "veth0", "tx", "off"]
    subprocess.run(switch, check=True, capture_output=True)
    sender, receiver = bound(stack, near, "0.0.0.0"), bound(stack, far, "198.51.100.2")
    to = Endpoint(ip_address("198.51.100.2"), receiver.local.port)
    assert sender.send(Transmit(None, to, Run(memoryview(bytes(1000)), 100))) is None
    take(receiver, 10)
    assert sender.gso == (sender.counters.gso_failures == 0)


def test_a_taken_port_may_be_replaced_by_a_free_one(stack: ExitStack, pair: tuple[str, str]) -> None:
    with entered(pair[0]):
        first = UdpSocket.bind("::", 51999)
        stack.callback(first.close)
        with pytest.raises(OSError, match="in use"):
            UdpSocket.bind("::", 51999)
        second = UdpSocket.bind("::", 51999, any_port=True)
        stack.callback(second.close)
    assert second.local.port != 51999


def test_a_buffer_forgets_what_it_held(stack: ExitStack, pair: tuple[str, str]) -> None:
    """Many, one, nothing and many again, of two families whose addresses differ in length."""
    buffer = ReceiveBuffer(8)
    with entered(pair[0]):
        four, six = (
            UdpSocket.bind(address, 0, buffer=buffer, send_buffer_bytes=None, receive_buffer_bytes=None, gro=False)
            for address in ("127.0.0.1", "::1")
        )
    for opened in (four, six):
        stack.callback(opened.close)
    for opened, count in ((four, 8), (six, 5), (four, 1), (six, 0), (four, 0), (six, 8), (four, 20)):
        for index in range(count):
            opened.send(Transmit(None, opened.local, Run.single(bytes((index,)) * (index + 1)), index << 2))
        got: list[tuple[Endpoint, int, bytes]] = []
        while True:
            got += [(received.remote, received.tos, bytes(received.run.data)) for received in opened.receive()]
            if len(got) >= count:
                break
            assert select.select([opened], [], [], 10)[0]  # the kernel may be late
        assert got == [(opened.local, index << 2, bytes((index,)) * (index + 1)) for index in range(count)]
        assert not opened.take_errors()


def test_sockets_may_share_one_buffer(stack: ExitStack, pair: tuple[str, str]) -> None:
    buffer = ReceiveBuffer()
    with entered(pair[0]):
        sockets = [
            UdpSocket.bind(address, 0, buffer=buffer, send_buffer_bytes=None, receive_buffer_bytes=None)
            for address in ("127.0.0.1", "::1")
        ]
    for opened in sockets:
        stack.callback(opened.close)
        opened.send(Transmit(None, opened.local, Run.single(str(opened.local).encode())))
    for opened in sockets:
        received, segments = take(opened, 1)[0]
        assert segments == [str(received.remote).encode()]
