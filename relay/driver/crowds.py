"""Many connections of one address: who has to make room, who is told, and whom a proxy stands for."""

import asyncio
import logging
import socket
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

from connectivity.clock import SECOND, Duration, Instant
from connectivity.endpoint import Endpoint, IPAddress, source_of
from relay.core.proxy_protocol import PREFIX_BYTES, ProxyHeaderError, client_of, length_behind

K = TypeVar("K", bound=Hashable)

# Implementation constants. What an operator reads: one line an hour for each of a few addresses.
_MOST_TOLD: Final = 64
_TOLD_FOR: Final[Duration] = 3600 * SECOND
_TOO_MANY: Final = (
    "Too many connections of one address, further ones are closed",
    (
        "raise quotas.connections_per_second_per_source if many clients share this address, "
        "or name it in trusted_proxies if it is a proxy that sends PROXY protocol v2"
    ),
)
_NO_HEADER: Final = (
    "A trusted proxy does not say for whom it connects, its connections are closed",
    "let it send PROXY protocol v2, or take it out of trusted_proxies",
)
_AND_MORE: Final = (
    "More such addresses than are named within an hour",
    "the counters of the relay tell how many connections were closed",
)

_log = logging.getLogger("relay")


class CrowdLog:
    """Says once of each address why its connections are closed, and what to do about it."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[str, bytes], Instant] = OrderedDict()  # the longest ago first

    def refused(self, source: IPAddress, now: Instant) -> None:
        """This address opens too many."""
        self._tell(source, now, *_TOO_MANY)

    def unproxied(self, source: IPAddress, now: Instant) -> None:
        """This trusted proxy sends something else than a header."""
        self._tell(source, now, *_NO_HEADER)

    def _tell(self, source: IPAddress, now: Instant, phrase: str, remedy: str) -> None:
        while self._told and now - next(iter(self._told.values())) > _TOLD_FOR:
            self._told.popitem(last=False)
        key = phrase, source_of(source)
        if key in self._told:
            return
        fields = {"source": source, "remedy": remedy}
        if len(self._told) >= _MOST_TOLD:
            phrase, fields["remedy"] = _AND_MORE
            key = phrase, b""
            if key in self._told:
                return
        self._told[key] = now
        _log.warning(phrase, extra={"fields": fields})


class Crowd(Generic[K]):
    """Connections by the source that each is for; whose it is to make room is found without a look at each."""

    def __init__(self) -> None:
        self._sources: dict[K, bytes] = {}
        self._of_source: dict[bytes, dict[K, None]] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._sources)

    def __iter__(self) -> Iterator[K]:
        return iter(self._sources)

    def __contains__(self, key: object) -> bool:
        return key in self._sources

    def add(self, key: K, ip: IPAddress) -> None:
        """One more, or one that is for this address now."""
        source = source_of(ip)
        if self._sources.get(key) == source:
            return
        self.discard(key)
        self._sources[key] = source
        self._of_source.setdefault(source, {})[key] = None

    def discard(self, key: K) -> None:
        """One less, if it was there."""
        source = self._sources.pop(key, None)
        if source is None:
            return
        others = self._of_source[source]
        del others[key]
        if not others:
            del self._of_source[source]

    def pop_of_largest(self) -> K:
        """Take out the oldest of the source that has most of them."""
        largest = max(self._of_source.values(), key=len)
        oldest = next(iter(largest))
        self.discard(oldest)
        return oldest


async def read_proxy_header(loop: asyncio.AbstractEventLoop, accepted: socket.socket) -> Endpoint | None:
    """Take the header off a connection, not a byte more; returns whom it names, None for the proxy itself.

    Raises:
        ProxyHeaderError: it does not begin with one.
        OSError: it cannot be read.
    """
    prefix = await _exactly(loop, accepted, PREFIX_BYTES)
    return client_of(prefix, await _exactly(loop, accepted, length_behind(prefix)))


async def _exactly(loop: asyncio.AbstractEventLoop, accepted: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = await loop.sock_recv(accepted, size - len(found))
        if not piece and size == PREFIX_BYTES and not found:
            raise ConnectionAbortedError("nothing was sent")  # as by who only looks whether we are there
        if not piece:
            raise ProxyHeaderError("it ends before its header does")
        found += piece
    return found
