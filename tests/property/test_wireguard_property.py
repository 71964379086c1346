"""Properties of the WireGuard parts: the replay window against a plain set, and any bytes against the decoders."""

from hypothesis import given
from hypothesis import strategies as st

from connectivity.run import Run
from connectivity.wireguard import HandshakeError, KeyPair, message_type, peek_initiator, receiver_index
from connectivity.wireguard.errors import DropReason
from connectivity.wireguard.messages import CookieReply, Initiation, Response
from connectivity.wireguard.replay import WINDOW, ReplayWindow
from tests.unit.connectivity.wireguard_pair import Pair, stream

KEYS = KeyPair.generate(stream(b"property"))


class SetWindow:
    """The window as one would explain it: remember everything, compare with the highest."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def mark(self, counter: int) -> DropReason | None:
        if self.seen and counter <= max(self.seen) - WINDOW:
            return DropReason.TOO_OLD
        if counter in self.seen:
            return DropReason.DUPLICATE
        self.seen.add(counter)
        return None


near = st.integers(0, 40)
around = st.integers(0, 3 * WINDOW)
far = st.sampled_from([0, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, (1 << 64) - 1, (1 << 64) - WINDOW])


@given(st.lists(st.one_of(near, around, far), max_size=60))
def test_the_window_agrees_with_a_set(counters: list[int]) -> None:
    window, oracle = ReplayWindow(), SetWindow()
    for counter in counters:
        expected = oracle.mark(counter)
        assert window.refusal(counter) == expected
        assert window.mark(counter) == expected


@given(st.lists(st.tuples(st.integers(0, 1500), st.integers(1, 1500), around), max_size=12))
def test_marking_a_stretch_is_marking_each(stretches: list[tuple[int, int, int]]) -> None:
    whole, single = ReplayWindow(), ReplayWindow()
    for gap, count, probe in stretches:
        first = whole.highest + 1 + gap
        whole.mark_next(first, count)
        for counter in range(first, first + count):
            assert single.mark(counter) is None
        assert whole.highest == single.highest
        assert whole.refusal(probe) == single.refusal(probe)
        assert whole.mark(probe) == single.mark(probe)


heads = st.sampled_from([b"", b"\x01\0\0\0", b"\x02\0\0\0", b"\x03\0\0\0", b"\x04\0\0\0", b"\x01\0\0\x01"])
lengths = st.sampled_from([0, 3, 4, 31, 32, 63, 64, 65, 91, 92, 93, 147, 148, 149, 1312])


@given(heads, lengths, st.binary(max_size=148))
def test_any_bytes_are_a_message_or_a_refusal(head: bytes, length: int, body: bytes) -> None:
    data = (head + body).ljust(length, b"\xa5")[:length]
    if message_type(data) in {2, 3, 4}:
        receiver_index(data)
    for attempt in (Initiation.decode, Response.decode, CookieReply.decode, lambda raw: peek_initiator(KEYS, raw)):
        try:
            attempt(data)
        except HandshakeError:
            continue  # the refusal is the other allowed outcome


@given(st.data())
def test_what_is_sealed_in_any_shape_is_opened_once_in_any_order(data: st.DataObject) -> None:
    pair = PAIR
    size = data.draw(st.integers(20, 200))
    full = data.draw(st.integers(1, 12))
    tail = data.draw(st.integers(0, size - 1))
    headroom = data.draw(st.sampled_from([0, 4, 7]))
    plain = bytes(number % 256 for number in range(full * size + tail))
    sealed = pair.a.tunnel.seal(Run(memoryview(plain), size), pair.now, headroom=headroom)
    assert sealed is not None
    messages = [bytes(segment) for segment in Run(memoryview(bytes(sealed.data)), sealed.segment_size).segments()]
    order = data.draw(st.lists(st.integers(0, full - 1), min_size=1, max_size=20))
    mixed = b"".join(messages[number] for number in order)
    opened = pair.b.tunnel.open(Run(memoryview(mixed), size + 32 + headroom), pair.now, headroom=headroom)
    assert opened is not None
    unique = list(dict.fromkeys(order))
    assert bytes(opened.data) == b"".join(plain[size * number : size * number + size] for number in unique)
    assert opened.segment_size == size


PAIR = Pair()
PAIR.connect()
