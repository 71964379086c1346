"""Properties of the IP batches: any bytes give a packet or an IpError, and splitting and merging are inverse."""

import struct
from ipaddress import ip_address
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectivity.fragment_table import FragmentTable
from connectivity.ip import IpError, PacketRun, parse, split_flows
from connectivity.ip.coalescing import Coalescer
from connectivity.ip.flow import Flow, mark_congestion
from connectivity.ip.icmp import prohibited, read_error, unreachable
from connectivity.ip.rewrite import rewrite
from connectivity.ip.segmentation import Splitter, VirtioNetHeader
from connectivity.run import Run
from tests.unit.connectivity.fragments import fragments, together
from tests.unit.connectivity.ip_oracle import checksums_are_right, echo, super_packet, tcp, transport, udp

UNTIMED = settings(deadline=None)  # a busy machine is no defect
VERSIONS = st.sampled_from([4, 6])
PORTS = st.integers(0, 0xFFFF)
OPTIONAL_PORTS = st.none() | PORTS
TCP_FLAGS = st.sampled_from([0x10, 0x18, 0x11, 0x19, 0x90, 0x50])


@st.composite
def almost_packets(draw: st.DrawFn) -> bytes:
    """A valid packet with a few bytes changed and perhaps cut: far more likely to reach deep checks than noise."""
    version, payload = draw(VERSIONS), draw(st.binary(max_size=80))
    packet = bytearray(tcp(version, payload) if draw(st.booleans()) else udp(version, payload))
    for position, value in draw(st.lists(st.tuples(st.integers(0, len(packet) - 1), st.integers(0, 255)), max_size=4)):
        packet[position] = value
    return bytes(packet[: draw(st.integers(0, len(packet)))])


@UNTIMED
@given(st.binary(max_size=1400) | almost_packets())
@example(b"")
@example(b"\x45")
def test_any_bytes_are_a_packet_or_an_ip_error(data: bytes) -> None:
    try:
        packet = parse(data)
    except IpError:
        return
    assert str(packet)
    assert 0 <= packet.tos <= 255
    assert Flow.from_key(packet.key).key == packet.key
    read_error(packet)
    for answer in (prohibited(packet), unreachable(packet)):
        if answer is not None:
            assert checksums_are_right(answer)
            built = parse(answer)
            assert (built.source, built.destination) == (packet.destination, packet.source)


@UNTIMED
@given(st.lists(st.binary(min_size=1, max_size=64) | almost_packets(), min_size=1, max_size=6), st.integers(40, 140))
def test_rows_of_any_bytes_become_strict_runs_or_errors(rows: list[bytes], stride: int) -> None:
    data = b"".join(row[:stride].ljust(stride, b"\0") for row in rows)
    errors: list[IpError] = []
    runs = split_flows(Run(memoryview(bytearray(data)), stride), errors)
    assert sum(found.run.segment_count for found in runs) + len(errors) == len(rows)
    for found in runs:
        for segment in found.run.segments():
            packet = parse(segment)
            assert len(packet.data) == len(segment)
            assert (packet.key, packet.tos) == (found.flow, found.tos)


@UNTIMED
@given(
    version=VERSIONS,
    protocol=st.sampled_from([6, 17]),
    payload=st.binary(min_size=1, max_size=3000),
    segment=st.integers(1, 1100),
    flags=TCP_FLAGS,
    sequence=st.sampled_from([0, 1, 0xFFFFFF00, 0xFFFFFFFF]) | st.integers(0, 0xFFFFFFFF),
    identification=st.sampled_from([0, 0xFFFF, 0xFFFE]) | st.integers(0, 0xFFFF),
    options=st.sampled_from([b"", b"\1\1\x08\x0aABCDEFGH"]),
    tos=st.integers(0, 255),
)
def test_split_makes_the_packets_that_a_sender_would(
    version: int,
    protocol: int,
    payload: bytes,
    segment: int,
    flags: int,
    sequence: int,
    identification: int,
    options: bytes,
    tos: int,
) -> None:
    fields: dict[str, Any] = {"flags": flags, "sequence": sequence, "options": options} if protocol == 6 else {}
    fields |= {"tos": tos, "identification": identification}
    virtio, whole = super_packet(version, protocol, payload, segment, **fields)
    found = Splitter().split(VirtioNetHeader.decode(virtio), memoryview(bytearray(whole)))

    pieces = [payload[start : start + segment] for start in range(0, len(payload), segment)]
    expected = []
    for index, piece in enumerate(pieces):
        fields["identification"] = (identification + index) & 0xFFFF
        if protocol == 6:
            fields["sequence"] = sequence + index * segment
            fields["flags"] = flags & ~((0x09 if index + 1 < len(pieces) else 0) | (0x80 if index else 0))
            expected.append(tcp(version, piece, **fields))
        else:
            expected.append(udp(version, piece, **fields))
    assert [bytes(packet) for packet in found.run.segments()] == expected
    assert found.tos == tos
    assert found.flow == parse(expected[0]).key


@st.composite
def tcp_or_udp_rows(draw: st.DrawFn) -> tuple[bytes, int]:
    """A run of one flow, with breaks in it: gaps, flags, other windows, wrong checksums, a shorter last packet."""
    version, size = draw(VERSIONS), draw(st.integers(1, 90))
    protocol, sequence = draw(st.sampled_from([6, 17])), draw(st.integers(0, 0xFFFFFFFF))
    rows = []
    count = draw(st.integers(1, 9))
    for index in range(count):
        payload = draw(st.binary(min_size=size, max_size=size))
        if index == count - 1:
            payload = payload[: draw(st.integers(0 if count > 1 else 1, size))]
        if protocol == 6:
            sequence += draw(st.sampled_from([0, 0, 0, 0, 5]))
            flags = draw(st.sampled_from([0x10] * 8 + [0x18, 0x11, 0x14, 0x30, 0x90, 0x50]))
            row = tcp(version, payload, sequence=sequence, flags=flags, window=draw(st.sampled_from([9, 9, 9, 9, 8])))
            sequence += len(payload)
        else:
            row = udp(version, payload)
        if draw(st.integers(0, 9)) == 0:
            row = row[:-1] + bytes((row[-1] ^ 1,))
        rows.append(row)
    return b"".join(rows), len(rows[0])


@UNTIMED
@given(tcp_or_udp_rows())
def test_split_undoes_coalesce(case: tuple[bytes, int]) -> None:
    data, stride = case
    packet = parse(data[:stride])
    run = PacketRun(Run(memoryview(data), stride), packet.key, packet.tos)
    coalescer, splitter = Coalescer(udp4=True, udp6=True), Splitter()
    out = b""
    for buffers in coalescer.coalesce(run):
        written = bytearray(b"".join(buffers))
        header = VirtioNetHeader.decode(written)
        body = memoryview(written)[10:]
        if header.gso_type:
            found = splitter.split(header, body)
            assert found.run.segment_count > 1
            assert all(checksums_are_right(bytes(segment)) for segment in found.run.segments())
            out += _without_ids(bytes(found.run.data), found.run.segment_size)
        else:
            out += _without_ids(bytes(body), len(body))
    assert out == _without_ids(data, stride)


@UNTIMED
@given(tcp_or_udp_rows(), st.integers(0, 255))
def test_marking_congestion_keeps_checksums_right(case: tuple[bytes, int], tos: int) -> None:
    data, stride = case
    version = data[0] >> 4
    rows = [udp(version, data[start : start + stride], tos=tos) for start in range(0, len(data), stride)]
    packet = parse(rows[0])
    marked = mark_congestion(PacketRun(Run(memoryview(bytearray(b"".join(rows))), len(rows[0])), packet.key, tos))
    expected = tos | 3 if tos & 3 in (1, 2) else tos
    assert marked.tos == expected
    for segment, row in zip(marked.run.segments(), rows, strict=True):
        assert parse(segment).tos == expected
        assert checksums_are_right(bytes(segment))
        assert bytes(segment[transport(row)[1] :]) == row[transport(row)[1] :]


@st.composite
def rewritable(draw: st.DrawFn) -> tuple[int, list[bytes]]:
    """Packets of one flow, TCP, UDP or a single echo."""
    version, size = draw(VERSIONS), draw(st.integers(1, 60))
    if draw(st.booleans()) and draw(st.booleans()):
        return version, [echo(version, draw(PORTS), body=draw(st.binary(max_size=20)))]
    build: Any = draw(st.sampled_from([tcp, udp]))
    ports = (draw(PORTS), draw(PORTS))
    rows = [
        build(version, draw(st.binary(min_size=size, max_size=size)), ports=ports)
        for _ in range(draw(st.integers(1, 5)))
    ]
    return version, rows


@UNTIMED
@given(rewritable(), st.binary(min_size=32, max_size=32), st.tuples(OPTIONAL_PORTS, OPTIONAL_PORTS), st.booleans())
def test_rewriting_is_what_editing_and_summing_anew_gives(
    case: tuple[int, list[bytes]], addresses: bytes, ports: tuple[int | None, int | None], both: bool
) -> None:
    version, rows = case
    size = 4 if version == 4 else 16
    source, destination = ip_address(addresses[:size]), ip_address(addresses[16 : 16 + size]) if both else None
    packet = parse(rows[0])
    run = PacketRun(Run(memoryview(bytearray(b"".join(rows))), len(rows[0])), packet.key, packet.tos)
    changed = rewrite(run, source=source, destination=destination, source_port=ports[0], destination_port=ports[1])
    for segment, row in zip(changed.run.segments(), rows, strict=True):
        assert checksums_are_right(bytes(segment))
        found, before = Flow.from_key(parse(segment).key), Flow.from_key(packet.key)
        assert found.source == source
        assert found.destination == (destination or before.destination)
        identifier = next((port for port in ports if port is not None), before.source_port)
        if packet.is_echo:
            assert found[4:] == (identifier, identifier)
        else:
            wanted = [old if new is None else new for new, old in zip(ports, before[4:], strict=True)]
            assert list(found[4:]) == wanted
        assert changed.flow == found.key
        assert bytes(segment[packet.l4 + 8 :])[10:] == row[packet.l4 + 8 :][10:]


def _without_ids(data: bytes, stride: int) -> bytes:
    """IPv4 ids set to zero, with their header checksums: merging renumbers atomic datagrams."""
    if data[0] >> 4 == 6:
        return data
    out = bytearray(data)
    for start in range(0, len(out), stride):
        out[start + 4 : start + 6] = struct.pack(">H", 0)
        out[start + 10 : start + 12] = b"\0\0"
    return bytes(out)


@UNTIMED
@given(
    version=VERSIONS,
    protocol=st.sampled_from([6, 17]),
    content=st.binary(min_size=1, max_size=60),
    size=st.integers(3, 30),  # eights of bytes in a fragment
    others=st.integers(1, 4),  # fragments before the last one
    last=st.integers(1, 30),
    identification=st.integers(0, 0xFFFF),
    host=st.integers(1, 250),
    port=PORTS,
)
def test_fragments_are_of_their_datagrams_flow_and_translated_like_it(
    version: int,
    protocol: int,
    content: bytes,
    size: int,
    others: int,
    last: int,
    identification: int,
    host: int,
    port: int,
) -> None:
    header = 20 if protocol == 6 else 8
    payload = (content * 1200)[: 8 * size * others + min(last, 8 * size) - header]
    whole = tcp(version, payload) if protocol == 6 else udp(version, payload)
    destination = parse(whole).destination + host
    parts = fragments(whole, size=8 * size, identification=identification)
    assert len(parts) == others + 1
    table, translated = FragmentTable(), []
    for part in parts:
        packet = parse(part)
        packets = PacketRun(Run.single(bytearray(part)), packet.key, packet.tos)
        found = table.resolve("peer", packets, 0)
        assert isinstance(found, PacketRun)
        assert found.flow == parse(whole).key
        translated.append(bytes(rewrite(packets, destination=destination, source_port=port).run.data))
    single = PacketRun(Run.single(bytearray(whole)), parse(whole).key, 0)
    expected = bytes(rewrite(single, destination=destination, source_port=port).run.data)
    assert together(translated) == expected
    assert checksums_are_right(expected)
