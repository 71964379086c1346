"""What UDP sockets receive, over a scripted kernel: addresses, runs, odd datagrams, and what is passed on unopened."""

import errno
import socket
import struct
from ipaddress import ip_address

import pytest

from connectivity.endpoint import Endpoint
from connectivity.io.receive_buffer import ReceiveBuffer
from connectivity.io.udp_options import (
    MAX_REMEMBERED,
    UDP_GRO,
    UDP_SEGMENT,
)
from connectivity.run import Run, Transmit
from tests.unit.connectivity.test_io_udp import PKTINFO, TO, ScriptedSocket, opened, run_of


def test_received_datagrams_keep_their_stride_addresses_and_tos() -> None:
    script = ScriptedSocket()
    ancillary = [
        (socket.IPPROTO_IP, 8, PKTINFO),
        (socket.IPPROTO_IP, socket.IP_TOS, b"\x2d"),
        (socket.IPPROTO_UDP, UDP_GRO, struct.pack("=i", 4)),
    ]
    script.incoming = [
        (b"aaaabbbbcc", ancillary, 0, ("198.51.100.1", 7)),
        (b"x", ancillary[:1], 0, ("198.51.100.1", 7)),
    ]
    receiver = opened(script)
    taken = [
        (*received[:2], [bytes(segment) for segment in received.run.segments()], received.tos)
        for received in receiver.receive()
    ]
    local, remote = Endpoint(ip_address("192.0.2.1"), 52625), Endpoint(ip_address("198.51.100.1"), 7)
    assert taken == [(local, remote, [b"aaaa", b"bbbb", b"cc"], 0x2D), (local, remote, [b"x"], 0)]
    assert (receiver.counters.batches_received, receiver.counters.datagrams_received) == (2, 4)


def test_unusable_datagrams_and_errors_do_not_stop_the_next() -> None:
    script = ScriptedSocket()
    info = [(socket.IPPROTO_IP, 8, PKTINFO)]
    script.incoming = [
        (b"no destination", [], 0, ("198.51.100.1", 7)),
        (b"", info, 0, ("198.51.100.1", 7)),
        (b"cut", info, socket.MSG_TRUNC, ("198.51.100.1", 7)),
        (b"stride", [*info, (socket.IPPROTO_UDP, UDP_GRO, struct.pack("=i", 7))], 0, ("198.51.100.1", 7)),
        ConnectionRefusedError(errno.ECONNREFUSED, "scripted"),
        (b"good", info, 0, ("198.51.100.1", 7)),
    ]
    receiver = opened(script)
    assert list(receiver.receive()) == []  # the error makes the socket readable again
    assert [bytes(received.run.data) for received in receiver.receive()] == [b"good"]
    assert (receiver.counters.received_unusable, receiver.counters.receive_errors) == (4, 1)
    assert [error.errno for error in receiver.take_errors()] == [errno.ECONNREFUSED]


def test_an_empty_datagram_can_be_opened_and_is_one() -> None:
    script = ScriptedSocket()
    script.incoming = [(b"", [(socket.IPPROTO_IP, 8, PKTINFO)], 0, ("198.51.100.1", 7))]
    receiver = opened(script)
    ((envelope, data),) = receiver.arrivals()
    received = receiver.open(envelope, data)
    assert received is not None
    assert (received.run.segment_count, [bytes(each) for each in received.run.segments()]) == (1, [b""])
    assert (receiver.counters.datagrams_received, receiver.counters.received_unusable) == (1, 0)


def test_no_more_is_read_than_asked_for() -> None:
    script = ScriptedSocket()
    script.incoming = [(b"x", [(socket.IPPROTO_IP, 8, PKTINFO)], 0, ("198.51.100.1", 7))] * 5
    assert len(list(opened(script).receive(3))) == 3


def test_ipv4_in_ipv6_is_ipv4() -> None:
    script = ScriptedSocket()
    info = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, ip_address("::ffff:192.0.2.1").packed + bytes(4))]
    traffic_class = (socket.IPPROTO_IPV6, socket.IPV6_TCLASS, struct.pack("=i", 0x2D))
    native = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, ip_address("2001:db8::1").packed + bytes(4)), traffic_class]
    script.incoming = [(b"x", info, 0, ("::ffff:192.0.2.1", 7)), (b"x", native, 0, ("2001:db8::2", 7))]
    assert [(*received[:2], received.tos) for received in opened(script).receive()] == [
        (Endpoint(ip_address("192.0.2.1"), 52625), Endpoint(ip_address("192.0.2.1"), 7), 0),
        (Endpoint(ip_address("2001:db8::1"), 52625), Endpoint(ip_address("2001:db8::2"), 7), 0x2D),
    ]


def test_envelopes_are_remembered_up_to_a_bound() -> None:
    buffer = ReceiveBuffer()
    for port in range(2 * MAX_REMEMBERED):
        buffer.origin(struct.pack("=H", socket.AF_INET) + port.to_bytes(2, "big") + bytes(28), bytes(2))
    assert len(buffer._origins) <= MAX_REMEMBERED


def test_a_single_datagram_may_be_passed_on_unopened() -> None:
    script = ScriptedSocket()
    run = [(socket.IPPROTO_IP, 8, PKTINFO), (socket.IPPROTO_UDP, UDP_GRO, struct.pack("=i", 4))]
    script.incoming = [(b"alone", run[:1], 0, ("198.51.100.1", 7)), (b"runsrun", run, 0, ("198.51.100.1", 7))]
    udp = opened(script)
    (alone, data), (many, _) = udp.arrivals()
    assert (udp.segment(alone), udp.segment(many)) == (0, 4)
    assert udp.prepared_sender(Endpoint(ip_address("192.0.2.1"), 1), TO, 0x2D).send(data)
    (sent,) = script.sent
    assert (sent[0], sent[2], len(sent[1])) == (b"alone", ("192.0.2.2", 9), 2)


def test_a_run_is_passed_on_in_one_call_or_not_at_all() -> None:
    script = ScriptedSocket()
    run = opened(script).prepared_sender(None, TO, 0).send_run
    assert run((bytes(1500), bytes(1000)), 1000)
    assert [(len(data), control) for data, control, _ in script.sent] == [
        (2500, ((socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 1000)),))
    ]
    assert not run((bytes(1000),), 1000), "one datagram: nothing would be cut"
    assert not run((bytes(65_001),), 1000), "more than one call takes"
    assert len(script.sent) == 1


@pytest.mark.parametrize("refusal", [errno.EMSGSIZE, errno.EINVAL, errno.EIO])
def test_segments_that_are_refused_are_found_out_once(refusal: int) -> None:
    script = ScriptedSocket(answers=[refusal] * 2)
    run = opened(script).prepared_sender(None, TO, 0).send_run
    assert not run((bytes(3000),), 1500)
    assert not run((bytes(3002),), 1501)
    assert script.sent == []
    assert run((bytes(2998),), 1499)


@pytest.mark.parametrize("refusal", [errno.EMSGSIZE, errno.ECONNREFUSED, errno.EAGAIN])
def test_a_refusal_that_is_not_of_the_segments_is_not_remembered(refusal: int) -> None:
    """ICMP about another datagram fails the next send, whichever that is."""
    script = ScriptedSocket(answers=[refusal])
    run = opened(script).prepared_sender(None, TO, 0).send_run
    assert run((bytes(3000),), 1500) == (refusal == errno.EMSGSIZE)
    assert run((bytes(3000),), 1500)


def test_the_only_address_of_a_socket_need_not_be_said() -> None:
    script = ScriptedSocket()
    script.incoming = [(b"x", [(socket.IPPROTO_IP, socket.IP_TOS, b"\x2d")], 0, ("198.51.100.1", 7))]
    udp = opened(script, address=ip_address("192.0.2.1"))
    (received,) = udp.receive()
    assert (received.local, received.tos) == (Endpoint(ip_address("192.0.2.1"), 52625), 0x2D)
    for source in ("192.0.2.1", "192.0.2.7"):
        udp.send(Transmit(Endpoint(ip_address(source), 1), TO, run_of(1)))
    assert [bool(control) for _, control, _ in script.sent] == [False, True]


def test_what_cannot_be_passed_on_at_once_is_not_lost_nor_overtakes() -> None:
    script = ScriptedSocket(answers=[errno.EAGAIN, errno.EAGAIN])
    udp = opened(script)
    pass_on = udp.prepared_sender(Endpoint(ip_address("192.0.2.1"), 1), TO, 0).send
    assert not pass_on(b"x")
    udp.send(Transmit(None, TO, Run.single(b"first")))
    assert not pass_on(b"second")
    assert udp.flush()
    assert pass_on(b"second")
    assert [sent[0] for sent in script.sent] == [b"first", b"second"]
