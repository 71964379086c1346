"""ICMP errors: what is answered, what is quoted, and reading it back."""

import struct

import pytest

from connectivity.ip.checksum import refresh
from connectivity.ip.icmp import build_error, is_error, prohibited, read_error, translate_error, unreachable
from connectivity.ip.packet import parse
from tests.unit.connectivity.ip_oracle import ADDRESSES, V4, V6, checksums_are_right, echo, ip, tcp, udp


@pytest.mark.parametrize(
    ("version", "answers"), [(4, ((3, 13), (3, 0))), (6, ((1, 1), (1, 3)))], ids=["RFC 792", "RFC 4443"]
)
def test_answers_come_from_the_destination_and_quote_the_packet(
    version: int, answers: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    source, destination = ADDRESSES[version]
    packet = tcp(version, b"x" * 1200)
    for build, kind in zip((prohibited, unreachable), answers, strict=True):
        answer = build(parse(packet))
        assert answer is not None
        assert checksums_are_right(answer)
        parsed = parse(answer)
        assert (parsed.source, parsed.destination) == (destination, source)
        assert answer[8 if version == 4 else 7] == 20
        assert (answer[parsed.l4], answer[parsed.l4 + 1]) == kind
        assert answer[parsed.l4 + 8 :] == packet[: 28 if version == 4 else 1200]
        assert len(answer) <= 1280
        error = read_error(parsed)
        assert error is not None
        assert (error.icmp_type, error.code, error.protocol) == (*kind, 6)
        assert (error.source, error.destination) == (source, destination)
        assert (error.source_port, error.destination_port) == (443, 50000)
        assert bytes(error.quoted[error.quoted_l4 :]).startswith(packet[20 if version == 4 else 40 :][:4])


def test_an_error_is_never_answered() -> None:
    for version in (4, 6):
        answer = prohibited(parse(udp(version, b"")))
        assert answer is not None
        assert is_error(parse(answer))
        assert prohibited(parse(answer)) is None
        assert prohibited(parse(echo(version, 1))) is not None


def test_a_later_fragment_is_never_answered() -> None:
    first, later = bytearray(ip(4, 47, bytes(8))), bytearray(ip(4, 47, bytes(8)))
    first[6], later[7] = 0x20, 1
    assert unreachable(parse(first)) is not None
    assert unreachable(parse(later)) is None
    assert unreachable(parse(ip(6, 44, b"\x2f\x00\x00\x01" + bytes(12)))) is not None
    assert unreachable(parse(ip(6, 44, b"\x2f\x00\x00\x08" + bytes(12)))) is None


@pytest.mark.parametrize("source", [bytes(4), b"\xff" * 4, b"\xe0\0\0\1"])
def test_a_source_that_is_no_single_host_is_never_answered(source: bytes) -> None:
    packet = bytearray(udp(4, b""))
    packet[12:16] = source
    assert unreachable(parse(packet)) is None


def test_the_mtu_of_a_rebuilt_error_is_kept() -> None:
    mtu = struct.pack(">I", 1280)
    error = read_error(parse(build_error(V6[1], V6[0], 2, 0, mtu, udp(6, b"x" * 1232))))
    assert error is not None
    assert (error.icmp_type, error.rest, len(error.quoted)) == (2, mtu, 1200)


@pytest.mark.parametrize("version", [4, 6])
def test_a_quoted_echo_request_is_known_by_its_identifier(version: int) -> None:
    near, far = ADDRESSES[version]
    kind = 3 if version == 4 else 1
    error = read_error(parse(build_error(far, near, kind, 0, bytes(4), echo(version, 99))))
    assert error is not None
    assert (error.source_port, error.destination_port) == (99, 99)
    reply = echo(version, 99, kind=0 if version == 4 else 129)
    assert read_error(parse(build_error(far, near, kind, 0, bytes(4), reply))) is None


@pytest.mark.parametrize(
    "packet",
    [
        echo(4, 1),
        echo(6, 1),
        udp(4, b""),
        build_error(*V4, 5, 0, bytes(4), udp(4, b"")),  # a redirect is an error, but not one to translate
        build_error(*V4, 3, 0, bytes(4), udp(4, b"")[:23]),
        build_error(*V4, 3, 0, bytes(4), b"\x41" + udp(4, b"")[1:]),
        build_error(*V4, 3, 0, bytes(4), ip(4, 47, bytes(8))),
        build_error(*V4, 3, 0, bytes(4), udp(6, b"")),
        build_error(*V6, 1, 0, bytes(4), udp(6, b"")[:39]),
        build_error(*V6, 1, 0, bytes(4), udp(6, b"")[:43]),
    ],
)
def test_what_quotes_nothing_usable_is_no_error_to_translate(packet: bytes) -> None:
    assert read_error(parse(packet)) is None


def test_a_cut_quotation_still_tells_its_ports() -> None:
    error = read_error(parse(build_error(*V4, 11, 0, bytes(4), tcp(4, b"")[:24])))
    assert error is not None
    assert (error.source_port, error.destination_port) == (443, 50000)


@pytest.mark.parametrize("packet", [tcp(4, b"abc"), tcp(6, b"ab"), udp(4, b"a"), udp(6, b""), echo(4, 5), echo(6, 5)])
def test_checksums_are_refreshed_after_an_edit(packet: bytes) -> None:
    edited = bytearray(packet)
    parsed = parse(packet)
    edited[15] ^= 0x55
    refresh(memoryview(edited), parsed.l4, parsed.protocol)
    assert checksums_are_right(bytes(edited))


def test_a_udp_checksum_that_was_left_out_stays_out_over_ipv4_only() -> None:
    for version, at in ((4, 26), (6, 46)):
        packet = bytearray(udp(version, b"abc"))
        packet[at : at + 2] = b"\0\0"
        refresh(memoryview(packet), at - 6, 17)
        assert (bytes(packet[at : at + 2]) == b"\0\0") == (version == 4)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["udp", "echo"])
def test_an_error_is_translated_back_to_what_the_sender_knew(version: int, kind: str) -> None:
    inside, resolved = ADDRESSES[version]
    proxy, router = (V4[0] + 9, V4[1] + 9) if version == 4 else (V6[0] + 9, V6[1] + 9)
    quoted = udp(version, b"x" * 40, ports=(7000, 53)) if kind == "udp" else echo(version, 7000)
    mtu = struct.pack(">I", 1280)
    found = read_error(parse(build_error(router, inside, 3 if version == 4 else 2, 4 * (version == 4), mtu, quoted)))
    assert found is not None
    answer = translate_error(found, proxy, inside, quoted_destination=proxy, quoted_source_port=50000)
    assert checksums_are_right(answer)
    parsed = parse(answer)
    assert (parsed.source, parsed.destination, answer[8 if version == 4 else 7]) == (proxy, inside, 20)
    again = read_error(parsed)
    assert again is not None
    assert again[:3] == found[:3]
    assert (again.source, again.destination) == (inside, proxy)
    assert (again.source_port, again.destination_port) == (50000, 53 if kind == "udp" else 50000)
    assert resolved not in (again.source, again.destination)
