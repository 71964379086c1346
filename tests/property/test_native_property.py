"""The compiled helper against the Python that it stands in for: the same runs through both, the same output.

The sanitizers look on in ``test_native_memory.py``, which runs this file once more with a helper of its own.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectivity import accelerator, native
from connectivity.ip import IpError, split_flows
from connectivity.ip.flow import FlowKey
from connectivity.run import Run
from connectivity.wireguard.errors import DropReason
from connectivity.wireguard.noise import TransportKeys
from connectivity.wireguard.session import Session
from connectivity.wireguard.workspace import Workspace
from tests.helper import compiled
from tests.unit.connectivity.ip_oracle import echo, ip, tcp, udp, with_checksums, with_ipv4_options

UNTIMED = settings(deadline=None)  # a busy machine is no defect
VERSIONS = st.sampled_from([4, 6])
FIRST, SECOND = bytes(range(32)), bytes(range(32, 64))


@pytest.fixture(scope="module")
def helper(tmp_path_factory: pytest.TempPathFactory) -> native.Helper:
    return compiled(tmp_path_factory)


def exact(data: bytes) -> memoryview:
    """Memory of its own that ends where the data does, so that a sanitizer sees one byte more."""
    return memoryview(bytearray(data))


# Sessions ------------------------------------------------------------------------------------------------------------


def _session(send: bytes, receive: bytes, index: int) -> Session:
    keys = TransportKeys(send, receive)
    return Session(
        keys=keys, local_index=index, remote_index=3 - index, is_initiator=True, workspace=Workspace(), now=0
    )


class Ends:
    """Sender and receiver of one session, in Python or with the helper."""

    def __init__(self, helper: native.Helper | None) -> None:
        with accelerator.using(helper):
            self.sender, self.receiver = (_session(FIRST, SECOND, 1), _session(SECOND, FIRST, 2))
        self.drops: Counter[DropReason] = Counter()

    def seal(self, data: bytes, size: int, headroom: int) -> tuple[list[bytes], int]:
        """The messages, and how far apart they lie."""
        sealed = self.sender.seal(Run(exact(data), size), headroom)
        return [bytes(segment[headroom:]) for segment in sealed.segments()], sealed.segment_size

    def open(self, data: bytes, size: int, headroom: int) -> tuple[int, bytes, int]:
        authentic, run = self.receiver.open(Run(exact(data), size), headroom, self.drops)
        return (authentic, b"", 0) if run is None else (authentic, bytes(run.data), run.segment_size)

    def state(self) -> tuple[object, ...]:
        window = self.receiver.window
        return window.highest, [window.refusal(counter) for counter in range(200)], dict(self.drops)


@st.composite
def plain_runs(draw: st.DrawFn) -> tuple[bytes, int, int]:
    size, headroom = draw(st.integers(1, 300) | st.just(1280)), draw(st.sampled_from([0, 4, 7]))
    length = draw(st.integers(0, 12)) * size + draw(st.integers(0, size - 1))
    return bytes(number * 7 % 256 for number in range(length)), size, headroom


@UNTIMED
@given(st.lists(plain_runs(), min_size=1, max_size=4))
def test_what_is_sealed(helper: native.Helper, runs: list[tuple[bytes, int, int]]) -> None:
    python, compiled_one = Ends(None), Ends(helper)
    for data, size, headroom in runs:
        if data:
            assert compiled_one.seal(data, size, headroom) == python.seal(data, size, headroom)


@st.composite
def received_runs(draw: st.DrawFn) -> list[tuple[bytes, int, int]]:
    """Runs of messages with whatever may happen to them: replays, jumps, other orders, forgeries, cut ends."""
    packets = draw(st.integers(0, 60) | st.just(1248))
    headroom = draw(st.sampled_from([0, 4]))
    order = draw(st.lists(st.integers(0, 25) | st.sampled_from([1100, 1101, (1 << 64) - 1]), min_size=1, max_size=24))
    if draw(st.booleans()):
        order = sorted(set(order))
    if draw(st.booleans()):
        order = list(range(order[0], order[0] + len(order)))
    runs = []
    sender = Ends(None).sender
    while order:
        count = draw(st.integers(1, len(order)))
        batch = bytearray()
        for counter in order[:count]:
            sender._send_counter = counter % (1 << 64)
            message = bytearray(sender.seal(Run.single(bytes(packets)), 0).data)
            if draw(st.integers(0, 19)) == 0:
                message[draw(st.integers(8, len(message) - 1))] ^= 1
            batch += bytes(headroom) + message
        cut = draw(st.sampled_from([0, 0, 0, 1, 17, 33]))
        runs.append((bytes(batch[: max(len(batch) - cut, 1)]), packets + 32 + headroom, headroom))
        order = order[count:]
    return runs


def _last_counters() -> tuple[bytes, int, int]:
    """The last counter that there is, and the first."""
    sender = Ends(None).sender
    found = b""
    for counter in ((1 << 64) - 1, 0):
        sender._send_counter = counter
        found += bytes(sender.seal(Run.single(b"packet")).data)
    return found, 38, 0


@UNTIMED
@given(received_runs())
@example([_last_counters()])
def test_what_is_opened_and_what_is_dropped_and_why(helper: native.Helper, runs: list[tuple[bytes, int, int]]) -> None:
    python, compiled_one = Ends(None), Ends(helper)
    for data, size, headroom in runs:
        assert compiled_one.open(data, size, headroom) == python.open(data, size, headroom)
        assert compiled_one.state() == python.state()


# Flows ---------------------------------------------------------------------------------------------------------------


def _of_other(packet: bytes) -> bytes:
    """From another source."""
    at = 15 if packet[0] >> 4 == 4 else 23
    return with_checksums(packet[:at] + bytes((packet[at] ^ 1,)) + packet[at + 1 :])


KINDS_OF_ROWS = st.sampled_from(
    ["shorter", "longer", "other", "ports", "tos", "options", "echo", "noise", "bits", "lengths", "fragment"]
)


@st.composite
def rows(draw: st.DrawFn) -> tuple[bytes, int]:
    """Rows of a decrypted run: packets of one flow and length, and a few of whatever else a peer could put there."""
    version, protocol, payload = draw(VERSIONS), draw(st.sampled_from([6, 6, 17])), draw(st.integers(0, 70))
    build: Any = tcp if protocol == 6 else udp
    usual = build(version, bytes(payload))
    stride = len(usual) + draw(st.sampled_from([0, 0, 0, 4, 16]))
    count = draw(st.integers(1, 9))
    found = [usual] * count
    for index, kind in draw(st.dictionaries(st.integers(0, count - 1), KINDS_OF_ROWS, max_size=3)).items():
        l4 = 20 if version == 4 else 40
        match kind:
            case "shorter":
                row = build(version, bytes(draw(st.integers(0, payload))))
            case "longer":
                row = build(version, bytes(payload + draw(st.integers(1, 9))))
            case "other":
                row = _of_other(usual)
            case "ports":
                row = build(version, bytes(payload), ports=draw(st.sampled_from([(443, 50001), (444, 50000)])))
            case "tos":
                row = build(version, bytes(payload), tos=draw(st.integers(0, 255)))
            case "options":
                shorter = tcp(version, bytes(max(payload - 4, 0)), options=b"\1" * 4)
                row = with_ipv4_options(usual) if draw(st.booleans()) and version == 4 else shorter
            case "echo":
                row = echo(version, 9)
            case "noise":
                row = draw(st.binary(max_size=80))
            case _:
                places = {
                    "bits": range(len(usual)),
                    "lengths": [2, 3, 4, 5, l4 + 4, l4 + 5, l4 + 12],
                    "fragment": [6, 7],
                }
                at = draw(st.sampled_from([place for place in places[kind] if place < len(usual)]))
                row = usual[:at] + bytes((usual[at] ^ 1 << draw(st.integers(0, 7)),)) + usual[at + 1 :]
        found[index] = row
    data = b"".join(row[:stride].ljust(stride, b"\0") for row in found)
    return data[: len(data) - draw(st.sampled_from([0, 0, 0, 1, 20, stride - 1]))], stride


def flows_of(data: bytes, stride: int) -> tuple[list[tuple[bytes, int, FlowKey, int]], list[str]]:
    errors: list[IpError] = []
    runs = split_flows(Run(exact(data), stride), errors)
    return [(bytes(one.run.data), one.run.segment_size, one.flow, one.tos) for one in runs], [
        str(one) for one in errors
    ]


def fragment(version: int, *, is_later: bool = False) -> bytes:
    if version == 4:
        packet = bytearray(ip(4, 6, bytes(12) + b"\x50" + bytes(51)))
        packet[6:8] = b"\0\1" if is_later else b"\x20\0"
        return bytes(packet)
    return ip(6, 44, b"\x11\0\0\1\0\0\0\7" + bytes(56))


@UNTIMED
@given(rows())
@example((fragment(4) * 3, 84))
@example((fragment(4, is_later=True) * 3, 84))
@example((fragment(6) * 3, 104))
@example((tcp(4, bytes(1240)) * 51, 1280))
@example((tcp(4, bytes(1241)) * 2, 1281))
@example((tcp(4, b"x" * 9) + tcp(4, b"x" * 5, options=b"\1" * 4), 49))
@example((udp(6, b"") * 3 + b"\x60", 48))
def test_how_flows_are_split(helper: native.Helper, case: tuple[bytes, int]) -> None:
    python = flows_of(*case)
    with accelerator.using(helper):
        assert flows_of(*case) == python


@UNTIMED
@given(st.binary(min_size=1, max_size=200), st.integers(1, 210))
def test_any_bytes_are_split_alike(helper: native.Helper, data: bytes, stride: int) -> None:
    python = flows_of(data, stride)
    with accelerator.using(helper):
        assert flows_of(data, stride) == python


def four(version: int, protocol: int) -> list[bytes]:
    """Four packets of a flow in sequence, the last one shorter."""
    if protocol == 17:
        return [udp(version, bytes(size)) for size in (12, 12, 12, 5)]
    options = b"\1\1\x08\x0aABCDEFGH"
    return [tcp(version, bytes(size), sequence=12 * n, options=options) for n, size in enumerate((12, 12, 12, 5))]


def flipped(row: bytes) -> Iterator[bytes]:
    for bit in range(8 * len(row)):
        at = bit // 8
        yield row[:at] + bytes((row[at] ^ 1 << bit % 8,)) + row[at + 1 :]


@pytest.mark.parametrize("number", [0, 1, 3])
@pytest.mark.parametrize("protocol", [6, 17])
@pytest.mark.parametrize("version", [4, 6])
def test_every_bit_of_a_packet_tells_flows_apart_alike(
    helper: native.Helper, version: int, protocol: int, number: int
) -> None:
    packets = four(version, protocol)
    for row in flipped(packets[number]):
        data = b"".join([*packets[:number], row, *packets[number + 1 :]])
        python = flows_of(data, len(packets[0]))
        with accelerator.using(helper):
            assert flows_of(data, len(packets[0])) == python
