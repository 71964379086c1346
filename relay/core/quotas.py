"""How much one user and all together may take: allocations, bandwidth. Of requests see ``relay.core.admission``.

Bandwidth is counted in relayed payload bytes, by token buckets that hold what their rate gives in one second: one for
each user's direction and one for the relay's. A datagram passes while tokens are left, so a bucket is overdrawn by at
most one datagram, and pays that back before it opens again. An offload works by the same rule and with the same
buckets: their numbers and rates come out as ``SetBucket``, and both spend from the memory that it shares (``share``).

Bounds: an account lives as long as its user's allocations. A fixed number is kept longer, so that whoever deletes the
last allocation and makes another finds the buckets as they were left.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from connectivity.clock import SECOND, Duration, Instant
from connectivity.run import Run
from connectivity.stun import ErrorCode
from relay.core.outputs import Output, SetBucket
from relay.core.statistics import Direction, DropReason, QuotaKind, Statistics

# Implementation constants. The depth and the count of buckets are also the offload's.
BUCKET_DEPTH: Final[Duration] = SECOND
MOST_BUCKETS: Final = 16_384
WHOLE_RELAY: Final = 0
# Shared memory has three numbers for each bucket: the offload's rate, and until when each direction is used up.
NUMBERS_OF_BUCKET: Final = 3
_PLACES: Final = {Direction.TO_PEER: 1, Direction.TO_CLIENT: 2}
_MOST_IDLE_ACCOUNTS: Final = 1024


@dataclass(frozen=True, slots=True)
class Quotas:
    """None is without a limit. Bandwidths are bits per second, for each direction on its own."""

    allocations_per_user: int | None = None
    allocations: int | None = None
    bandwidth_per_user: int | None = None
    bandwidth: int | None = None
    requests_per_second_per_source: int | None = None
    connections_per_second_per_source: int | None = None


class Numbers(Protocol):
    """Memory that holds integers, such as an offload's."""

    def __getitem__(self, place: int, /) -> int: ...

    def __setitem__(self, place: int, value: int, /) -> None: ...


class TokenBucket:
    """Tokens are time: it knows until when its rate has been used up. ``bytes_per_second`` 0 is without a limit.

    An offload that shares the memory may spend between our look and our store: what it took then is not missed.
    """

    __slots__ = ("_memory", "_place", "bytes_per_second")

    def __init__(self, bytes_per_second: int) -> None:
        self.bytes_per_second = bytes_per_second
        self._memory: Numbers = [0]
        self._place = 0

    def keep_in(self, memory: Numbers, place: int) -> None:
        """Go on there, with what has been spent so far."""
        memory[place] = self._memory[self._place]
        self._memory, self._place = memory, place

    def room(self, size: int, now: Instant) -> int:
        """How many datagrams of this size may pass now."""
        spent_until = max(self._memory[self._place], now - BUCKET_DEPTH)
        if spent_until > now:
            return 0
        return (now - spent_until) * self.bytes_per_second // (size * SECOND) + 1 if size else 1

    def spend(self, count: int, now: Instant) -> None:
        """Take the tokens of so many bytes."""
        cost = count * SECOND // self.bytes_per_second
        self._memory[self._place] = max(self._memory[self._place], now - BUCKET_DEPTH) + cost

    def give_back(self, count: int) -> None:
        """Undo ``spend``, at the same moment."""
        self._memory[self._place] -= count * SECOND // self.bytes_per_second


class Account:
    """What one user holds. ``bucket`` is the offload's: 0 without a limit, None if there is none left to be had."""

    __slots__ = ("allocations", "bucket", "buckets", "user")

    def __init__(self, user: str) -> None:
        self.user = user
        self.allocations = 0
        self.bucket: int | None = 0
        self.buckets: dict[Direction, TokenBucket] = {}


class Accounts:
    """Who holds and moves how much."""

    def __init__(self, quotas: Quotas, outputs: deque[Output], statistics: Statistics) -> None:
        self._quotas = quotas
        self._outputs = outputs
        self._statistics = statistics
        self._accounts: dict[str, Account] = {}
        self._idle: dict[str, Account] = {}  # without allocations, the longest first
        self._allocations = 0
        self._free_buckets: list[int] = []
        self._next_bucket = WHOLE_RELAY + 1
        self._whole: dict[Direction, TokenBucket] = {}
        self._shared: Numbers | None = None
        self.is_metered = False
        self._set_whole()

    def __len__(self) -> int:
        return len(self._accounts)

    def refuse_allocation(self, user: str, wanted: int) -> ErrorCode | None:
        """Why this user gets no further allocations, as many as that."""
        account = self._accounts.get(user)
        if _is_over(self._quotas.allocations_per_user, wanted + (0 if account is None else account.allocations)):
            self._statistics.quota_refusals[QuotaKind.ALLOCATIONS_PER_USER] += 1
            return ErrorCode.ALLOCATION_QUOTA_REACHED
        if _is_over(self._quotas.allocations, wanted + self._allocations):
            self._statistics.quota_refusals[QuotaKind.ALLOCATIONS] += 1
            return ErrorCode.INSUFFICIENT_CAPACITY
        return None

    def open(self, user: str) -> Account:
        """The account of a user who gets an allocation."""
        account = self._accounts.get(user)
        if account is None:
            account = self._accounts[user] = self._idle.pop(user) if user in self._idle else self._new_account(user)
        account.allocations += 1
        self._allocations += 1
        return account

    def close(self, account: Account) -> None:
        """One of its allocations ended; with the last one it goes, at once or some time later."""
        account.allocations -= 1
        self._allocations -= 1
        if account.allocations:
            return
        del self._accounts[account.user]
        if account.buckets:
            self._idle[account.user] = account
        if len(self._idle) > _MOST_IDLE_ACCOUNTS:
            self._forget_longest_idle()

    def replace(self, quotas: Quotas) -> bool:
        """These count from now on. True if channels have to be installed anew, because a user's bucket is another."""
        self._quotas = quotas
        self._set_whole()
        while self._idle:
            self._forget_longest_idle()
        before = [account.bucket for account in self._accounts.values()]
        for account in self._accounts.values():
            self._set_user(account)
        return before != [account.bucket for account in self._accounts.values()]

    def share(self, memory: Numbers | None) -> None:
        """Spend from the buckets in this memory of an offload from now on; None: from our own again."""
        self._shared = memory
        for bucket, buckets in self._all_buckets():
            self._place(bucket, buckets)

    def admit(self, account: Account, direction: Direction, run: Run, now: Instant) -> Run:
        """As many of the run's datagrams, from its start, as both budgets have room for; counts the others.

        An empty datagram costs nothing, but passes only where another one would.
        """
        buckets = [
            (quota, bucket)
            for quota, bucket in (
                (QuotaKind.BANDWIDTH_PER_USER, account.buckets.get(direction)),
                (QuotaKind.BANDWIDTH, self._whole.get(direction)),
            )
            if bucket is not None
        ]
        data, size = run
        for quota, bucket in buckets:
            room = bucket.room(size, now)
            if room * size < len(data) or not room:
                cut = Run(data[: room * size], size or 1)
                excess = Run(data, size).segment_count - cut.segment_count
                self._statistics.drops[DropReason.OVER_QUOTA] += excess
                self._statistics.quota_refusals[quota] += excess
                data, size = cut
        if data:
            for _, bucket in buckets:
                bucket.spend(len(data), now)
        return Run(data, size)

    def spends(self, account: Account, direction: Direction, size: int, segment: int, now: Instant) -> bool:
        """Take the tokens of a datagram or a whole run if both budgets have room for it; if not, nothing happens."""
        buckets = [
            bucket for bucket in (account.buckets.get(direction), self._whole.get(direction)) if bucket is not None
        ]
        rooms = [bucket.room(segment, now) for bucket in buckets]
        if not all(rooms) or any(room * segment < size for room in rooms):
            return False
        for bucket in buckets:
            bucket.spend(size, now)
        return True

    def gives_back(self, account: Account, direction: Direction, size: int) -> None:
        """Undo ``spends``, at the same moment."""
        for bucket in (account.buckets.get(direction), self._whole.get(direction)):
            if bucket is not None:
                bucket.give_back(size)

    def _all_buckets(self) -> Iterator[tuple[int | None, dict[Direction, TokenBucket]]]:
        yield WHOLE_RELAY, self._whole
        for account in (*self._accounts.values(), *self._idle.values()):
            yield account.bucket, account.buckets

    def _place(self, bucket: int | None, buckets: dict[Direction, TokenBucket]) -> None:
        """Where both paths find them; nobody else needs those without a number."""
        for direction, each in buckets.items():
            if self._shared is None or bucket is None:
                each.keep_in([0], 0)
            else:
                each.keep_in(self._shared, bucket * NUMBERS_OF_BUCKET + _PLACES[direction])

    def _set_whole(self) -> None:
        rate = _bytes_per_second(self._quotas.bandwidth)
        if rate or self._whole:
            self._outputs.append(SetBucket(WHOLE_RELAY, rate))
        self._whole = {direction: TokenBucket(rate) for direction in Direction} if rate else {}
        self._place(WHOLE_RELAY, self._whole)
        self.is_metered = bool(rate or self._quotas.bandwidth_per_user)

    def _new_account(self, user: str) -> Account:
        account = Account(user)
        self._set_user(account)
        return account

    def _forget_longest_idle(self) -> None:
        self._free_bucket(self._idle.pop(next(iter(self._idle))))

    def _set_user(self, account: Account) -> None:
        rate = _bytes_per_second(self._quotas.bandwidth_per_user)
        account.buckets = {direction: TokenBucket(rate) for direction in Direction} if rate else {}
        if not rate:
            self._free_bucket(account)
            return
        if not account.bucket:
            account.bucket = self._take_bucket()
        self._place(account.bucket, account.buckets)
        if account.bucket is not None:
            self._outputs.append(SetBucket(account.bucket, rate))

    def _take_bucket(self) -> int | None:
        if not self._free_buckets and self._next_bucket == MOST_BUCKETS and self._idle:
            self._forget_longest_idle()
        if self._free_buckets:
            return heapq.heappop(self._free_buckets)
        if self._next_bucket == MOST_BUCKETS:
            return None
        self._next_bucket += 1
        return self._next_bucket - 1

    def _free_bucket(self, account: Account) -> None:
        if account.bucket:
            heapq.heappush(self._free_buckets, account.bucket)
        account.bucket = 0


def _is_over(limit: int | None, count: int) -> bool:
    return limit is not None and count > limit


def _bytes_per_second(bits_per_second: int | None) -> int:
    return max(1, bits_per_second // 8) if bits_per_second else 0
