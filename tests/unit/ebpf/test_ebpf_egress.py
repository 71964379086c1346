"""The questions of the egress self-test (RFC 826, RFC 4861 §4.3) and who is taken to have answered."""

import struct
from ipaddress import ip_address
from typing import Final

from ebpf.egress import answered_by, question
from ebpf.netlink import Interface
from ebpf.oracle import ones_complement_sum

MAC: Final = bytes.fromhex("020000000001")
ADDRESSES: Final = (ip_address("192.0.2.1"), ip_address("2001:db8::1"), ip_address("fe80::1"))
INTERFACE: Final = Interface("e0", 2, MAC, 1500, ADDRESSES, 0)


def test_an_arp_request_is_broadcast() -> None:
    frame = question(INTERFACE, ip_address("192.0.2.254"))
    assert frame is not None
    assert frame[:14] == b"\xff" * 6 + MAC + b"\x08\x06"
    assert frame[14:42] == bytes.fromhex("0001 0800 06 04 0001") + MAC + ADDRESSES[0].packed + bytes(6) + bytes(
        [192, 0, 2, 254]
    )
    assert len(frame) == 60


def test_a_solicitation_goes_to_the_solicited_node_group_with_a_right_checksum() -> None:
    frame = question(INTERFACE, ip_address("2001:db8::fe:1234"))
    assert frame is not None
    assert frame[:6] == bytes.fromhex("3333fffe1234")
    assert frame[38:54] == ip_address("ff02::1:fffe:1234").packed
    assert frame[21] == 255
    body = frame[54:]
    assert ones_complement_sum(frame[22:54] + struct.pack("!II", len(body), 58) + body) == 0xFFFF


def test_a_link_local_router_is_asked_from_a_link_local_address() -> None:
    link_local = question(INTERFACE, ip_address("fe80::fe"))
    wide = question(INTERFACE, ip_address("2001:db8::fe"))
    assert link_local is not None
    assert wide is not None
    assert (link_local[22:38], wide[22:38]) == (ADDRESSES[2].packed, ADDRESSES[1].packed)


def test_without_an_address_nothing_can_be_asked() -> None:
    bare = Interface("e0", 2, MAC, 1500, (), 0)
    assert question(bare, ip_address("192.0.2.254")) is None
    assert question(bare, ip_address("2001:db8::fe")) is None


def test_a_reply_names_its_sender_a_request_does_not_answer() -> None:
    request = question(INTERFACE, ip_address("192.0.2.254"))
    assert request is not None
    assert answered_by(request) is None
    assert answered_by(request[:20] + b"\0\2" + request[22:]) == ADDRESSES[0]


def test_an_advertisement_names_its_target() -> None:
    solicitation = question(INTERFACE, ip_address("2001:db8::fe"))
    assert solicitation is not None
    assert answered_by(solicitation) is None
    assert answered_by(solicitation[:54] + b"\x88" + solicitation[55:]) == ip_address("2001:db8::fe")


def test_anything_shorter_answers_nothing() -> None:
    solicitation = question(INTERFACE, ip_address("2001:db8::fe"))
    assert solicitation is not None
    advertisement = solicitation[:54] + b"\x88" + solicitation[55:]
    assert [answered_by(advertisement[:length]) for length in range(78)] == [None] * 78
