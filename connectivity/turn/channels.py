"""The channels that a client bound on its allocation (RFC 8656 §12), with the reuse rules of Firezone's peers.

A channel lives 600 s from its last confirmation; the relay reserves the pair for 300 s more. Ages count from the last
request or confirmation, whichever is younger:

    send, confirmed          bound, confirmed less than 600 s ago
    send, in flight          less than 600 s old
    bind the peer again      on the same number while bound and less than 900 s old
    number for another peer  900 s old, nothing received since the last confirmation, no request pending
    refresh                  300 s old, something received since the last confirmation, no request pending
    receive                  bound, or in flight: data may come before the answer that a relay sends with others

Only received data keeps a channel alive: one that is only sent on lapses and is bound again on demand.
Invariant: at most 4096 entries, each number at most once.
"""

from collections.abc import Collection, Iterator
from typing import Final

from connectivity.clock import SECOND, Instant
from connectivity.endpoint import Endpoint
from connectivity.turn.channel_data import MIN_NUMBER

LAST_NUMBER: Final = 0x4FFF  # RFC 8656 §12 leaves 0x5000 and above to others
LIFETIME_NS: Final = 600 * SECOND  # RFC 8656 §12
COOL_DOWN_NS: Final = 300 * SECOND
REFRESH_AGE_NS: Final = 300 * SECOND
_COUNT: Final = LAST_NUMBER - MIN_NUMBER + 1


class _Channel:
    __slots__ = ("bound_at", "is_bound", "number", "peer", "received_at", "requested_at")

    def __init__(self, number: int, peer: Endpoint, now: Instant) -> None:
        self.number = number
        self.peer = peer
        self.is_bound = False
        self.requested_at = now
        self.bound_at = now
        self.received_at = now

    def age(self, now: Instant) -> int:
        return now - max(self.requested_at, self.bound_at)

    def is_confirmed(self, now: Instant) -> bool:
        return self.is_bound and now - self.bound_at < LIFETIME_NS

    def has_received(self) -> bool:
        return self.received_at > self.bound_at


class ChannelTable:
    """Channel numbers and peers of one allocation."""

    def __init__(self) -> None:
        self._channels: dict[int, _Channel] = {}
        self._by_peer: dict[Endpoint, list[_Channel]] = {}
        self._next = MIN_NUMBER

    def __len__(self) -> int:
        return len(self._channels)

    def clear(self) -> None:
        """Forget all channels. Numbering goes on where it was, so that late data meets no new channel."""
        self._channels.clear()
        self._by_peer.clear()

    def request(self, peer: Endpoint, pending: Collection[int], now: Instant) -> int | None:
        """The number to bind for ``peer``, noted as in flight; None when all are taken.

        Args:
            peer: Whom to reach.
            pending: Numbers with a request under way: they are not given to anybody else.
            now: The time of the request.
        """
        for channel in self._by_peer.get(peer, ()):
            if channel.is_bound and now - channel.bound_at < LIFETIME_NS + COOL_DOWN_NS:
                channel.requested_at = now
                return channel.number
        number = self._free_number(pending, now)
        if number is None:
            return None
        self.remove(number)
        channel = _Channel(number, peer, now)
        self._channels[number] = channel
        self._by_peer.setdefault(peer, []).append(channel)
        return number

    def confirm(self, number: int, now: Instant) -> bool:
        """The relay bound the channel. False if it is not ours any more."""
        channel = self._channels.get(number)
        if channel is None:
            return False
        channel.is_bound = True
        channel.requested_at = channel.bound_at = channel.received_at = now
        return True

    def remove(self, number: int) -> None:
        """Forget one channel, known or not."""
        channel = self._channels.pop(number, None)
        if channel is None:
            return
        siblings = self._by_peer[channel.peer]
        siblings.remove(channel)
        if not siblings:
            del self._by_peer[channel.peer]

    def is_confirmed(self, peer: Endpoint, now: Instant) -> bool:
        """Whether data can go to ``peer`` on a channel that the relay has confirmed."""
        return any(channel.is_confirmed(now) for channel in self._by_peer.get(peer, ()))

    def number_for(self, peer: Endpoint, now: Instant) -> int | None:
        """The channel to send on: a confirmed one, else one in flight."""
        in_flight: int | None = None
        for channel in self._by_peer.get(peer, ()):
            if channel.is_bound and now - channel.bound_at < LIFETIME_NS:
                return channel.number
            if channel.age(now) < LIFETIME_NS:
                in_flight = channel.number
        return in_flight

    def lasts_until(self, number: int, now: Instant) -> Instant:
        """Until when a channel that ``number_for`` gives now can be sent on."""
        channel = self._channels[number]
        return (channel.bound_at if channel.is_confirmed(now) else now - channel.age(now)) + LIFETIME_NS

    def receive(self, number: int, now: Instant) -> Endpoint | None:
        """The peer of a channel that data arrived on."""
        channel = self._channels.get(number)
        if channel is None:
            return None
        if channel.is_bound:
            channel.received_at = now
        elif channel.age(now) >= LIFETIME_NS:
            return None
        return channel.peer

    def due(self, pending: Collection[int], now: Instant) -> Iterator[tuple[Endpoint, int]]:
        """Peer and number of the channels to refresh."""
        for channel in self._channels.values():
            if channel.age(now) >= REFRESH_AGE_NS and channel.has_received() and channel.number not in pending:
                yield channel.peer, channel.number

    def _free_number(self, pending: Collection[int], now: Instant) -> int | None:
        number = self._next
        for _ in range(_COUNT):
            following = number + 1 if number < LAST_NUMBER else MIN_NUMBER
            if self._is_free(number, pending, now):
                self._next = following
                return number
            number = following
        return None

    def _is_free(self, number: int, pending: Collection[int], now: Instant) -> bool:
        channel = self._channels.get(number)
        if channel is None:
            return number not in pending
        lapsed = channel.age(now) >= LIFETIME_NS + COOL_DOWN_NS
        return lapsed and not channel.has_received() and number not in pending
