"""The oracle itself, against the RFCs' own examples and against its reader."""

from ipaddress import ip_address
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectivity.endpoint import Endpoint
from ebpf.oracle import ChecksumKind, Datagram, ones_complement_sum, read_packet

_ports = st.integers(1, 0xFFFF)


def _of_family(version: Literal[4, 6]) -> st.SearchStrategy[Datagram]:
    ends = st.builds(Endpoint, st.ip_addresses(v=version), _ports)
    return st.builds(Datagram, ends, ends, st.binary(max_size=64), st.integers(0, 255), st.integers(1, 255))


_datagrams = _of_family(4) | _of_family(6)


def test_sum_of_rfc_1071_section_3() -> None:
    assert ones_complement_sum(bytes.fromhex("0001 f203 f4f5 f6f7")) == 0xDDF2


@given(_datagrams)
def test_what_is_written_is_read(datagram: Datagram) -> None:
    assert read_packet(datagram.packet(identification=7, flow_label=9)) == datagram


@pytest.mark.parametrize("kind", [ChecksumKind.PARTIAL, ChecksumKind.ZERO])
def test_an_incomplete_checksum_is_not_a_right_one(kind: ChecksumKind) -> None:
    datagram = Datagram(Endpoint(ip_address("192.0.2.1"), 1), Endpoint(ip_address("192.0.2.2"), 2), b"message")
    with pytest.raises(ValueError, match="UDP checksum"):
        read_packet(datagram.packet(kind))


@pytest.mark.parametrize("version", [4, 6])
def test_every_flipped_bit_behind_the_ip_header_is_noticed(version: int) -> None:
    ends = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}[version]
    datagram = Datagram(Endpoint(ip_address(ends[0]), 1), Endpoint(ip_address(ends[1]), 2), b"message")
    packet = datagram.packet()
    start = 20 if version == 4 else 40
    for bit in range(start * 8, len(packet) * 8):
        flipped = bytearray(packet)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="UDP"):
            read_packet(bytes(flipped))
