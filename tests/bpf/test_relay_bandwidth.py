"""What the program lets through of users and relays that have a bandwidth."""

import time
from dataclasses import replace
from typing import Final

import pytest

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from ebpf.bindings import Buckets
from ebpf.layout import Counter
from ebpf.outcomes import Direction, Outcome
from ebpf.settings import ChannelFlow
from relay.core.quotas import NUMBERS_OF_BUCKET, TokenBucket
from tests.bpf.relay_bench import FOREVER, PROGRAM_CLOCK, PUBLIC, Bench
from tests.bpf.relay_frames import CLIENT6, FLOW, FLOW6, LISTEN, PEER, channel_data, frame_of, ipv4_of, ipv6_of

pytestmark = pytest.mark.root


class TestBandwidth:
    """Token buckets: one second deep, each direction on its own, the user's and the whole relay's."""

    RATE: Final = 100
    # The third finds 20 left and takes it into debt; what comes then has to wait longer than any machine is busy.
    SIZES: Final = (40, 40, 1200)
    UP: Final = tuple(frame_of(ipv4_of(channel_data(size))) for size in SIZES)
    DOWN: Final = tuple(
        frame_of(ipv4_of(bytes(size), source=PEER, destination=Endpoint(LISTEN.ip, 50_000))) for size in SIZES
    )

    @pytest.mark.parametrize("bucket", [5, 0], ids=["the user's", "the relay's"])
    def test_over_it_drops_and_counts(self, bench: Bench, bucket: int) -> None:
        bench.install(replace(FLOW, bucket=5))
        bench.set_bucket(bucket, self.RATE)
        assert [bench.run(frame)[0] for frame in (*self.UP, self.UP[0])] == ["redirect"] * 3 + ["drop"]
        assert bench.outcomes()[Outcome.DROP_OVER_QUOTA, Direction.TO_PEER] == Counter(1, len(self.UP[0]))
        assert bench.flow_counters(FLOW)[0] == Counter(3, sum(self.SIZES))
        assert bench.run(self.DOWN[0])[0] == "redirect", "the other direction has tokens of its own"

    def test_fills_with_time(self, bench: Bench) -> None:
        bench.install(replace(FLOW, bucket=5))
        now = time.clock_gettime_ns(PROGRAM_CLOCK)
        bench.set_bucket(5, self.RATE, spent_until=now + 60 * SECOND)
        assert bench.run(self.UP[0])[0] == "drop"
        bench.set_bucket(5, self.RATE, spent_until=now)
        assert [bench.run(frame)[0] for frame in (self.UP[2], self.UP[0])] == ["redirect", "drop"]

    def test_idle_time_gives_one_second_at_most(self, bench: Bench) -> None:
        bench.install(replace(FLOW, bucket=5))
        bench.set_bucket(5, self.RATE, spent_until=max(0, time.monotonic_ns() - 60 * SECOND))
        assert [bench.run(frame)[0] for frame in (*self.UP, self.UP[0])] == ["redirect"] * 3 + ["drop"]

    def test_between_clients_the_receiver_s_user_pays_too(self, bench: Bench) -> None:
        near = replace(FLOW, peer=Endpoint(PUBLIC[4], 50_002), bucket=5)
        far = ChannelFlow(CLIENT6, 0x4002, Endpoint(PUBLIC[4], 50_000), 50_002, FOREVER, bucket=6)
        bench.install(near, far)
        bench.set_bucket(6, self.RATE, spent_until=time.monotonic_ns() + 60 * SECOND)
        assert bench.run(self.UP[0])[0] == "drop"
        bench.set_bucket(6, 0)
        assert bench.run(self.UP[0])[0] == "redirect"

    def test_user_space_spends_from_the_same_buckets(self, bench: Bench) -> None:
        bench.install(replace(FLOW, bucket=5))
        bench.set_bucket(5, self.RATE)
        buckets = Buckets(bench.program.maps["buckets"])
        ours = {direction: TokenBucket(self.RATE) for direction in (Direction.TO_PEER, Direction.TO_CLIENT)}
        for direction, each in ours.items():
            each.keep_in(buckets.numbers, 5 * NUMBERS_OF_BUCKET + 1 + direction)
        assert ours[Direction.TO_PEER].room(10, time.monotonic_ns()) >= 10
        ours[Direction.TO_PEER].spend(70, time.monotonic_ns())
        assert [bench.run(frame)[0] for frame in (self.UP[2], self.UP[0])] == ["redirect", "drop"]
        assert not ours[Direction.TO_PEER].room(1, time.monotonic_ns())
        assert [bench.run(frame)[0] for frame in self.DOWN] == ["redirect"] * 3
        assert not ours[Direction.TO_CLIENT].room(1, time.monotonic_ns())
        for each in ours.values():
            each.keep_in([0], 0)
        buckets.close()

    def test_another_user_is_not_touched(self, bench: Bench) -> None:
        bench.install(replace(FLOW, bucket=5), replace(FLOW6, bucket=6))
        bench.set_bucket(5, self.RATE, spent_until=time.monotonic_ns() + 60 * SECOND)
        bench.set_bucket(6, self.RATE)
        assert (bench.run(self.UP[0])[0], bench.run(frame_of(ipv6_of()))[0]) == ("drop", "redirect")
