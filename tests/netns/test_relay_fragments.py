"""What the relay sends to peers, seen on the wire: don't-fragment, fragments, and the ICMP errors that these meet.

Routers on the way are made up: the peer's namespace writes their ICMP messages by raw sockets.
"""

import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from connectivity.endpoint import Endpoint
from connectivity.io.udp_options import UDP_SEGMENT
from connectivity.stun import Attribute, Data, DontFragment, Icmp, MessageClass, Method, XorPeerAddress, encode
from relay.core import Transport
from tests.netns.plain_pair import entered
from tests.netns.relay_stage import FAR, RELAY
from tests.netns.standalone import CHANNEL, FILE, StandAlone, allocate
from tests.netns.turn_wire import TurnWire
from tests.unit.relay.playbook import attribute_of, error_code

pytestmark = pytest.mark.root

BIG = bytes(1600)  # more than the wire's MTU of 1500
MTU = 1500
ROUTERS_MTU = 1300
_ETH_P_IP = 0x0800
_DONT_FRAGMENT, _MORE_FRAGMENTS, _OFFSET = 0x4000, 0x2000, 0x1FFF


class Capture:
    """The IPv4 packets of UDP that arrive at the far end."""

    def __init__(self, stack: ExitStack, namespace: str) -> None:
        with entered(namespace):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_IP))
        stack.enter_context(self._socket)
        self._socket.bind(("veth0", _ETH_P_IP))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def flags(self, source_port: int) -> list[str]:
        """Of each datagram from this port, in order: ``may``, ``may not`` be fragmented, or ``was``."""
        found = []
        while select.select([self._socket], [], [], 0)[0]:
            packet = self._socket.recv(2048)[14:]
            (bits,) = struct.unpack_from("!H", packet, 6)
            header = (packet[0] & 0x0F) * 4
            if packet[9] != socket.IPPROTO_UDP or bits & _OFFSET:
                continue  # only first fragments have ports
            if struct.unpack_from("!H", packet, header)[0] == source_port:
                found.append("was" if bits & _MORE_FRAGMENTS else "may not" if bits & _DONT_FRAGMENT else "may")
        return found


@pytest.fixture(scope="module", params=["python", "xdp"])
def relay(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandAlone]:
    file = FILE if request.param == "python" else FILE + "ebpf: {interfaces: [veth0], mode: native}\n"
    with ExitStack() as module:
        yield StandAlone(module, tmp_path_factory.mktemp("relay"), file=file)


def is_offloaded(relay: StandAlone) -> bool:
    return "mode: native" in relay.file.read_text()


def send_indication(client: TurnWire, peer: Endpoint, data: bytes, *more: DontFragment) -> None:
    attributes: tuple[Attribute, ...] = (XorPeerAddress(peer), Data(data), *more)
    client.write(encode(Method.SEND, MessageClass.INDICATION, bytes(12), attributes))


def read_icmp(client: TurnWire, peer: Endpoint) -> Icmp:
    message = client.read_message()
    assert (message.method, message.get(Data)) == (Method.DATA, None)
    assert attribute_of(message, XorPeerAddress).endpoint == peer
    return attribute_of(message, Icmp)


def permitted(relay: StandAlone, client: TurnWire, version: int) -> tuple[socket.socket, Endpoint]:
    peer, address = relay.peer(version)
    assert error_code(client.call(Method.CREATE_PERMISSION, XorPeerAddress(address))) == 0
    return peer, address


@pytest.mark.parametrize("transport", [Transport.UDP, Transport.TCP])
def test_dont_fragment_sets_the_bit_of_that_datagram_only(relay: StandAlone, transport: Transport) -> None:
    client = relay.client(transport)
    port = allocate(client)
    peer, address = permitted(relay, client, 4)
    client.bind(CHANNEL, address)
    capture = Capture(relay.stack, relay.there)
    for _ in range(3):
        for more in ((), (DontFragment(),)):
            send_indication(client, address, b"x", *more)
            assert peer.recv(10) == b"x"
        for _ in range(2):
            client.send_data(CHANNEL, b"y")
            assert peer.recv(10) == b"y"
    # XDP copies the bit of what came in, which is the standard's choice (RFC 8656 §14); a socket does not see it.
    copied = transport is Transport.UDP and is_offloaded(relay)
    assert capture.flags(port) == 3 * ["may", "may not", *(2 * ["may not" if copied else "may"])]


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_too_long_for_the_link_is_fragmented_or_told(relay: StandAlone, version: int) -> None:
    client = relay.client(version=version)
    port = allocate(client, version)
    peer, address = permitted(relay, client, version)
    client.bind(CHANNEL, address)
    capture = Capture(relay.stack, relay.there)
    kind = (3, 4) if version == 4 else (2, 0)
    for told in (address, relay.peer(version)[1], address):
        send_indication(client, told, BIG, DontFragment())
        assert read_icmp(client, told) == Icmp(*kind, struct.pack("!I", MTU))
    send_indication(client, address, BIG)
    assert peer.recv(2000) == BIG
    client.send_data(CHANNEL, BIG)
    assert peer.recv(2000) == BIG
    if version == 4:
        assert capture.flags(port) == ["was", "was"]


@pytest.mark.parametrize("version", [4, 6])
def test_what_only_the_channel_header_makes_too_long_reaches_the_client(relay: StandAlone, version: int) -> None:
    """Of a run from a peer that fills its packets: the kernel would cut a longer one, but not fragment its segments."""
    client = relay.client(version=version)
    port = allocate(client, version)
    peer, address = permitted(relay, client, version)
    client.bind(CHANNEL, address)
    size = MTU - (28 if version == 4 else 48)
    segments = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))]
    for turn in range(3):
        payloads = [bytes((turn, index)).ljust(size, b"x") for index in range(4)]
        peer.sendmsg([b"".join(payloads)], segments, 0, (str(RELAY[version]), port))
        assert [client.read_data() for _ in payloads] == [(CHANNEL, payload) for payload in payloads]


@pytest.mark.parametrize(("transport", "version"), [(Transport.UDP, 4), (Transport.UDP, 6), (Transport.TCP, 4)])
def test_routers_errors_reach_the_client_though_other_data_follows(
    relay: StandAlone, transport: Transport, version: int
) -> None:
    client = relay.client(transport, version)
    port = allocate(client, version)
    peer, address = permitted(relay, client, version)
    client.bind(CHANNEL, address)
    before = {fate: relay.metric(f'icmp_errors_total{{fate="{fate}"}}') for fate in ("relayed", "dropped")}
    too_big, exceeded, odd = ((3, 4), (11, 0), (12, 0)) if version == 4 else ((2, 0), (3, 0), (4, 0))
    for kind, mtu in ((too_big, ROUTERS_MTU), (exceeded, 0)):
        send_indication(client, address, b"long ago", DontFragment())
        assert peer.recv(10) == b"long ago"
        client.send_data(CHANNEL, b"meanwhile")
        assert peer.recv(10) == b"meanwhile"
        tell(relay, Endpoint(RELAY[version], port), address, kind, mtu)
        assert read_icmp(client, address) == Icmp(*kind, struct.pack("!I", mtu))
    tell(relay, Endpoint(RELAY[version], port), address, odd, 0)  # a parameter problem is nothing to clients
    client.send_data(CHANNEL, b"as ever")
    assert peer.recv(10) == b"as ever"
    assert error_code(client.call(Method.REFRESH)) == 0  # and nothing came before this
    after = {fate: relay.metric(f'icmp_errors_total{{fate="{fate}"}}') for fate in ("relayed", "dropped")}
    assert (after["relayed"] - before["relayed"], after["dropped"] - before["dropped"]) == (2, 1)


def test_a_port_unreachable_about_what_a_channel_sent_reaches_the_client(relay: StandAlone) -> None:
    client = relay.client()
    allocate(client)
    closed = Endpoint(FAR[4], 9)
    assert error_code(client.bind(CHANNEL, closed)) == 0
    for _ in range(3):
        client.send_data(CHANNEL, b"nobody there")
        assert read_icmp(client, closed) == Icmp(3, 3, bytes(4))
    path = "xdp" if is_offloaded(relay) else "python"
    assert relay.metric(f'packets_total{{path="{path}",direction="to_peer"}}') >= 3


def tell(relay: StandAlone, source: Endpoint, destination: Endpoint, kind: tuple[int, int], mtu: int) -> None:
    """An ICMP error about a datagram from the relay, as a router would send it."""
    ports = struct.pack("!HHHH", source.port, destination.port, 8 + 4, 0) + b"data"
    if source.ip.version == 4:
        offender = struct.pack("!BBHHHBBH", 0x45, 0, 32, 0, _DONT_FRAGMENT, 60, socket.IPPROTO_UDP, 0)
        family, protocol = socket.AF_INET, socket.IPPROTO_ICMP
    else:
        offender = struct.pack("!IHBB", 6 << 28, 12, socket.IPPROTO_UDP, 60)
        family, protocol = socket.AF_INET6, socket.IPPROTO_ICMPV6  # whose checksum is the kernel's work
    offender += source.ip.packed + destination.ip.packed + ports
    message = struct.pack("!BBHI", *kind, 0, mtu) + offender
    if source.ip.version == 4:
        message = message[:2] + checksum(message) + message[4:]
    with entered(relay.there), socket.socket(family, socket.SOCK_RAW, protocol) as raw:
        raw.sendto(message, (str(source.ip), 0))


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
