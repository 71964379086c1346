"""What a worker writes into the shared memory, and what the core and the next worker make of it."""

from connectivity.clock import SECOND
from connectivity.data_path.shared import RESERVED, ROW_BYTES, Mirror, SharedPeer, rows_of
from connectivity.run import Run
from connectivity.wireguard import DropReason, SessionValues, Workspace
from connectivity.wireguard.activity import Activity
from connectivity.wireguard.noise import TransportKeys

KEYS = TransportKeys(bytes(range(32)), bytes(range(32, 64)))
THEIRS = TransportKeys(KEYS.receive, KEYS.send)
PACKET = Run.single(bytearray(b"a packet"))
INDEX = 0x77


class Pair:
    """A worker's peer, the core's view of it, and the far end."""

    def __init__(self) -> None:
        memory = memoryview(bytearray(2 * ROW_BYTES))
        self.mirror = Mirror(rows_of(memory)[1])
        self.asked: list[int] = []
        workspace = Workspace()
        self.peer = SharedPeer(INDEX, workspace, 0, words=memory.cast("q"), slot=1, renew=self.asked.append)
        self.far = SharedPeer(1, Workspace(), 0, words=memory.cast("q"), slot=0, renew=self.asked.append)
        self.peer.use(self.peer.add(SessionValues(KEYS, INDEX << 8 | 1, 0x101, False, 0)))
        self.far.use(self.far.add(SessionValues(THEIRS, 0x101, INDEX << 8 | 1, True, 0)))
        self.activity = Activity(0)

    def send(self, now: int) -> None:
        assert self.peer.seal(PACKET, now) is not None

    def receive(self, now: int, *, packet: bool = True) -> bytes:
        sealed = self.far.seal(PACKET, now) if packet else None
        message = bytes(sealed.data) if sealed is not None else self.far.keep_alive(now)
        assert message is not None
        self.peer.open(Run.single(bytearray(message)), now)
        return message


def test_activity_comes_back() -> None:
    pair = Pair()
    assert not pair.mirror.take(pair.activity)
    pair.send(5 * SECOND)
    pair.send(6 * SECOND)
    assert pair.mirror.take(pair.activity)
    activity = pair.activity
    assert (activity.last_data_at, activity.sent_bytes, activity.received_bytes) == (6 * SECOND, 16, 0)
    assert (activity.unanswered_since, activity.unacknowledged_since) == (5 * SECOND, None)
    assert (activity.has_sent_data, activity.has_received_data, activity.has_heard) == (True, False, False)
    pair.receive(7 * SECOND)
    pair.receive(8 * SECOND)
    assert pair.mirror.take(activity)
    assert (activity.unanswered_since, activity.unacknowledged_since) == (None, 7 * SECOND)
    assert (activity.has_received_data, activity.has_heard, activity.received_bytes) == (True, True, 16)
    assert not pair.mirror.take(activity)


def test_a_keep_alive_answers_but_is_no_data() -> None:
    pair = Pair()
    pair.send(SECOND)
    pair.mirror.take(pair.activity)
    pair.receive(2 * SECOND, packet=False)
    assert pair.mirror.take(pair.activity)
    assert (pair.activity.unanswered_since, pair.activity.has_received_data) == (None, False)


def test_what_the_timers_have_reset_begins_with_what_came_after() -> None:
    pair = Pair()
    pair.send(SECOND)
    pair.mirror.take(pair.activity)
    pair.activity.unanswered_since = None  # an initiation is planned
    assert not pair.mirror.take(pair.activity)
    assert pair.activity.unanswered_since is None
    pair.send(3 * SECOND)
    pair.mirror.take(pair.activity)
    assert pair.activity.unanswered_since == SECOND  # no earlier than the last look


def test_who_goes_on_uses_no_counter_twice_and_takes_no_message_twice() -> None:
    pair = Pair()
    for now in range(1, 11):
        pair.send(now)
    seen = [pair.receive(now) for now in range(11, 14)]
    counter, highest = pair.mirror.counters(INDEX << 8 | 1)
    assert (counter, highest) == (10, 2)
    successor = Pair().peer
    session = successor.current
    assert session is not None
    session.resume(counter + RESERVED, highest)
    for message in seen:
        assert successor.open(Run.single(bytearray(message)), 20) is None
    assert successor.drops[DropReason.DUPLICATE] == 3
    assert session.send_counter == 10 + RESERVED


def test_the_core_is_asked_once_for_a_path_whose_time_is_over() -> None:
    pair = Pair()
    pair.peer.renew_at = 5
    for now in (4, 5, 6):
        pair.send(now)
    assert pair.asked == [INDEX]
