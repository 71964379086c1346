"""Super-packets, translation and checksums: the compiled helper against Python, as in ``test_native_property``."""

import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectivity import accelerator, native
from connectivity.data_path.segments import uniform
from connectivity.ip import IpError, PacketRun, parse
from connectivity.ip.coalescing import Coalescer
from connectivity.ip.flow import FlowKey
from connectivity.ip.packing import complete_checksums
from connectivity.ip.rewrite import Rewriting
from connectivity.ip.segmentation import Splitter, VirtioNetHeader
from connectivity.run import Run
from tests.helper import compiled
from tests.property.test_native_property import UNTIMED, VERSIONS, exact, flipped, four
from tests.unit.connectivity.ip_oracle import super_packet, tcp, udp, with_checksums


@pytest.fixture(scope="module")
def helper(tmp_path_factory: pytest.TempPathFactory) -> native.Helper:
    return compiled(tmp_path_factory)


# Super-packets -------------------------------------------------------------------------------------------------------


BREAKS = st.sampled_from(
    [
        *("gap", "push", "fin", "syn", "rst", "urg", "cwr", "ece", "window", "acknowledgement", "hop-limit", "id"),
        *("options", "checksum", "flow-label", "header-checksum", "dont-fragment", "urgent"),
    ]
)
FLAGS = {"push": 0x18, "fin": 0x11, "syn": 0x12, "rst": 0x14, "urg": 0x30, "cwr": 0x90, "ece": 0x50}


def changed(version: int, row: bytes, kind: str) -> bytes:
    """What no argument of the oracle's changes."""
    l4 = 20 if version == 4 else 40
    at, mask = {
        "checksum": (len(row) - 1, 1),
        "flow-label": (3, 1),
        "header-checksum": (10, 1),
        "dont-fragment": (6, 0x40),
        "urgent": (l4 + 19, 1),
    }.get(kind, (0, 0))
    if at < len(row) and kind not in ({"flow-label"} if version == 4 else {"header-checksum", "dont-fragment"}):
        row = row[:at] + bytes((row[at] ^ mask,)) + row[at + 1 :]
    return row if kind in {"checksum", "header-checksum"} else with_checksums(row)


@st.composite
def segments(draw: st.DrawFn) -> tuple[bytes, int]:
    """A run of one flow with a break or two in it, and perhaps a shorter last packet."""
    version, size = draw(VERSIONS), draw(st.integers(1, 90))
    protocol, sequence = draw(st.sampled_from([6, 6, 17])), draw(st.sampled_from([0, 0xFFFFFF80]))
    options = draw(st.sampled_from([b"", b"\1\1\x08\x0aABCDEFGH", b"\1" * 40]))
    count = draw(st.integers(1, 12))
    breaks = draw(st.dictionaries(st.integers(0, count - 1), BREAKS, max_size=2))
    last = draw(st.just(size) | st.integers(0 if count > 1 else 1, size))
    found = []
    for index in range(count):
        payload = bytes((index * 31 + number) % 256 for number in range(last if index == count - 1 else size))
        kind = breaks.get(index, "")
        fields: dict[str, Any] = {
            "hop_limit": 63 if kind == "hop-limit" else 64,
            "identification": 8 if kind == "id" else 7,
        }
        if protocol == 6:
            sequence += 5 if kind == "gap" else 0
            fields |= {"sequence": sequence, "flags": FLAGS.get(kind, 0x10), "window": 8 if kind == "window" else 9}
            fields |= {"acknowledgement": 8 if kind == "acknowledgement" else 7}
            row = tcp(version, payload, options=bytes(len(options)) if kind == "options" else options, **fields)
            sequence += len(payload)
        else:
            row = udp(version, payload, **fields)
        found.append(changed(version, row, kind))
    return b"".join(found), len(found[0])


def writes(data: bytes, stride: int, refused: tuple[str, ...]) -> list[bytes]:
    packet = parse(data[:stride])
    run = PacketRun(Run(exact(data), stride), packet.key, packet.tos)
    coalescer = Coalescer(**{name: name not in refused for name in ("tcp4", "tcp6", "udp4", "udp6")})
    return [b"".join(buffers) for buffers in coalescer.coalesce(run)]


@UNTIMED
@given(segments(), st.sampled_from([(), (), (), ("tcp4", "udp6"), ("tcp6", "udp4")]))
@example((udp(4, b"x") * 130, 29), ())
@example((udp(6, bytes(1200)) * 60, 1248), ())
@example((b"".join(tcp(4, b"x", sequence=number) for number in range(70)), 41), ())
@example((b"".join(tcp(6, bytes(1220), sequence=number * 1220) for number in range(60)), 1280), ())
@example((b"".join(tcp(6, b"x", sequence=number, hop_limit=64 - (number > 0)) for number in range(4)), 61), ())
def test_what_is_written(helper: native.Helper, case: tuple[bytes, int], refused: tuple[str, ...]) -> None:
    python = writes(*case, refused)
    with accelerator.using(helper):
        assert writes(*case, refused) == python


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize("version", [4, 6])
def test_every_bit_of_a_packet_keeps_it_from_merging_alike(
    helper: native.Helper, version: int, protocol: int, number: int
) -> None:
    """As it is, which its checksum shows, and with a right checksum."""
    packets = four(version, protocol)
    protocol_at = 9 if version == 4 else 6
    for row in flipped(packets[number]):
        is_summable = row[protocol_at] == protocol and row[0] == packets[0][0]
        for changed_row in (row, with_checksums(row)) if is_summable else (row,):
            data = b"".join([*packets[:number], changed_row, *packets[number + 1 :]])
            python = writes(data, len(packets[0]), ())
            with accelerator.using(helper):
                assert writes(data, len(packets[0]), ()) == python


def cut(virtio: bytes, packet: bytes) -> tuple[object, ...] | str:
    try:
        run, flow, tos = Splitter().split(VirtioNetHeader.decode(virtio), exact(packet))
    except IpError as error:
        return str(error)
    return bytes(run.data), run.segment_size, flow, tos


@UNTIMED
@given(
    version=VERSIONS,
    protocol=st.sampled_from([6, 17]),
    payload=st.integers(0, 4000) | st.sampled_from([0, 1200, 2400]),
    segment=st.integers(1, 1300) | st.sampled_from([0, 1, 1200]),
    fields=st.fixed_dictionaries(
        {
            "flags": st.sampled_from([0x10, 0x18, 0x11, 0x19, 0x90, 0x99]),
            "sequence": st.sampled_from([0, 0xFFFFFF00]) | st.integers(0, 0xFFFFFFFF),
            "options": st.sampled_from([b"", b"\1\1\x08\x0aABCDEFGH", b"\1" * 40]),
        }
    ),
    identification=st.sampled_from([0, 0xFFFE]),
    changes=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=2),
    wrong=st.none() | st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([0, 1, 4, 5, 20, 24, 40, 48, 5000, 65535])),
)
def test_how_super_packets_are_cut(
    helper: native.Helper,
    version: int,
    protocol: int,
    payload: int,
    segment: int,
    fields: dict[str, Any],
    identification: int,
    changes: list[tuple[int, int]],
    wrong: tuple[int, int] | None,
) -> None:
    chosen = fields if protocol == 6 else {}
    body = (bytes(range(251)) * (payload // 251 + 1))[:payload]
    virtio, whole = super_packet(version, protocol, body, segment, identification=identification, **chosen)
    packet = bytearray(whole)
    for position, value in changes:
        if position < len(packet):
            packet[position] = value
    if wrong is not None:
        kind, number = wrong
        header = list(VirtioNetHeader.decode(virtio))
        header[{1: 1, 2: 3, 3: 4}[kind]] = number & (0xFF if kind == 1 else 0xFFFF)
        virtio = struct.pack("=BBHHHH", *header)
    python = cut(virtio, bytes(packet))
    with accelerator.using(helper):
        assert cut(virtio, bytes(packet)) == python


@UNTIMED
@given(st.binary(max_size=300), st.sampled_from([0, 1, 4, 5]), st.integers(-1, 70_000), st.integers(-1, 70_000))
def test_no_bytes_lead_out_of_memory(helper: native.Helper, data: bytes, kind: int, first: int, second: int) -> None:
    """Called with what no caller of ours would say: it is refused, or within what was handed over."""
    output = exact(bytes(10 + 65535))
    helper.split(exact(data), kind, first, second, output[:900])
    helper.stretch(exact(data), first % 400, second % 400)
    helper.merge(exact(data), first % 400, second % 400, output)


def test_no_room_is_no_cut(helper: native.Helper) -> None:
    virtio, whole = super_packet(4, 6, bytes(3000), 1000)
    header = VirtioNetHeader.decode(virtio)
    needed = 3 * 1040
    for room, expected in ((needed, 40), (needed - 1, 0)):
        arguments = exact(whole), header.gso_type, header.csum_start, header.gso_size
        assert helper.split(*arguments, exact(bytes(room))) == expected


# What is done to every row -------------------------------------------------------------------------------------------


@st.composite
def translated(draw: st.DrawFn) -> tuple[bytes, int, FlowKey, FlowKey]:
    """A run of one flow, some of it without a checksum, and another flow for it."""
    version, protocol, size = draw(VERSIONS), draw(st.sampled_from([6, 17])), draw(st.integers(0, 40))
    found = []
    count = draw(st.integers(1, 6))
    for index in range(count):
        length = size if index < count - 1 else draw(st.integers(0, size))
        payload = draw(st.binary(min_size=length, max_size=length))
        flags = draw(st.sampled_from([0x10, 0x18, 0x11, 0x04]))
        row = bytearray(tcp(version, payload, flags=flags) if protocol == 6 else udp(version, payload))
        at = (20 if version == 4 else 40) + (16 if protocol == 6 else 6)
        row[at : at + 2] = draw(st.sampled_from([bytes(row[at : at + 2]), b"\0\0", b"\xff\xff"]))
        found.append(bytes(row))
    before = parse(found[0]).key
    bits = draw(st.binary(min_size=len(before) - 2, max_size=len(before) - 2))
    return b"".join(found), len(found[0]), before, before[:2] + bits


def translations(data: bytes, stride: int, before: FlowKey, after: FlowKey) -> tuple[bytes, FlowKey, int]:
    rewriting = Rewriting(before, after)
    run = Run(exact(data), stride)
    flags = rewriting.tcp_flags(run) if before[1] == 6 else 0
    changed = rewriting.apply(PacketRun(run, before, 0))
    return bytes(changed.run.data), changed.flow, flags


@UNTIMED
@given(translated())
def test_how_runs_are_translated(helper: native.Helper, case: tuple[bytes, int, FlowKey, FlowKey]) -> None:
    python = translations(*case)
    with accelerator.using(helper):
        assert translations(*case) == python


@UNTIMED
@given(
    st.binary(min_size=2, max_size=300), st.integers(20, 80), st.sampled_from([20, 40, 41]), st.sampled_from([6, 16])
)
def test_how_checksums_are_completed(helper: native.Helper, data: bytes, length: int, start: int, offset: int) -> None:
    def completed() -> bytes | str:
        packets = exact(data)
        try:
            complete_checksums(packets, length, start, offset)
        except (IpError, IndexError) as error:  # no caller has rows that are all too short: numpy says so first
            return type(error).__name__
        return bytes(packets)

    python = completed()
    with accelerator.using(helper):
        assert completed() == python


@UNTIMED
@given(
    size=st.integers(1, 40),
    count=st.integers(1, 5),
    last=st.integers(0, 39),
    headroom=st.sampled_from([0, 4]),
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=2),
)
def test_which_runs_are_uniform(
    helper: native.Helper, size: int, count: int, last: int, headroom: int, changes: list[tuple[int, int]]
) -> None:
    sizes = [size] * count + [last % size] * (last % size > 0)
    data = bytearray()
    for length in sizes:
        frame = b"\x40\x01" + (length - 4).to_bytes(2, "big", signed=True) if headroom else b""
        data += (frame + b"\4\0\0\0\1\2\3\4" + bytes(30))[:length]
    for position, value in changes:
        data[position % len(data)] = value
    run = Run(exact(bytes(data)), size)
    python = uniform(run, headroom)
    with accelerator.using(helper):
        assert uniform(run, headroom) == python


def test_what_may_not_be_written_is_not(helper: native.Helper) -> None:
    packet = memoryview(tcp(4, b""))
    with pytest.raises(BufferError):
        helper.complete(packet, 40, 20, 16)
    with pytest.raises(BufferError):
        helper.rewrite(packet, 40, bytes(14), (0, 0))


@pytest.mark.parametrize("version", [4, 6])
def test_no_checksum_of_udp_becomes_none(helper: native.Helper, version: int) -> None:
    row = bytearray(udp(version, b"data"))
    before = parse(row).key
    after = before[:-1] + bytes((before[-1] ^ 1,))
    at = len(row) - 6
    change = Rewriting(before, after)._both[1]
    row[at : at + 2] = (0xFFFF - change).to_bytes(2, "little")
    case = bytes(row) * 2, len(row), before, after
    python = translations(*case)
    assert python[0][at : at + 2] == b"\xff\xff"
    with accelerator.using(helper):
        assert translations(*case) == python


@pytest.mark.parametrize(("version", "at"), [(4, 2), (4, 3), (4, 9), (6, 6)])
def test_a_super_packet_that_says_something_else_is_refused_alike(helper: native.Helper, version: int, at: int) -> None:
    virtio, whole = super_packet(version, 6, bytes(3000), 1000)
    packet = whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :]
    python = cut(virtio, packet)
    with accelerator.using(helper):
        assert cut(virtio, packet) == python
