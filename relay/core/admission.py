"""How often one may ask: requests and connections per second, by what their sender has proven.

A source address proves nothing over UDP: anybody can write a victim's into his datagrams. And many clients may share
one: an office, a proxy, another relay. So budgets are apart, and nobody can use up another's:

==================================  ========================================================================
who asks                            is counted
==================================  ========================================================================
nobody knows                        by source address
has our nonce, or a connection      by source address, apart from the former; room for a crowd
has an allocation                   by address and port
has an allocation and our nonce,    by address and port, apart from the former: only who receives what we send
or a connection                     to that address can know the nonce
opens a connection                  by source address, apart from all requests: TCP's handshake has proven it
==================================  ========================================================================

Bounds: memory of a fixed size, whatever the number of sources.
"""

import hashlib
from array import array
from typing import Final

from connectivity.clock import SECOND, Duration, Instant
from connectivity.endpoint import Endpoint, IPAddress, source_of
from relay.core.quotas import BUCKET_DEPTH, Quotas

# Implementation constants. Two rows of 32,768 sources are half a megabyte.
_SLOT_BITS: Final = 15
_SLOT_MASK: Final = (1 << _SLOT_BITS) - 1
# Clients behind one address that may begin at once, each with as many requests as a stranger has.
CROWD: Final = 10


class Admission:
    """All budgets of one relay; no limit where its quota is None."""

    def __init__(self, quotas: Quotas, secret: bytes) -> None:
        self._strangers, self._crowds, self._holders, self._proven, self._connections = (
            RateLimiter(None, secret) for _ in range(5)
        )
        self.replace(quotas)

    def replace(self, quotas: Quotas) -> None:
        """These limits count from now on."""
        rate = quotas.requests_per_second_per_source
        self.limits_requests = rate is not None
        for limiter in (self._strangers, self._holders, self._proven):
            limiter.replace(rate)
        self._crowds.replace(None if rate is None else rate * CROWD)
        self._connections.replace(quotas.connections_per_second_per_source)

    def admits_request(self, client: Endpoint, now: Instant, *, is_proven: bool, has_allocation: bool) -> bool:
        """Whether one more request may be served; counts it if so."""
        if has_allocation:
            budget = self._proven if is_proven else self._holders
            return budget.admits(client.ip.packed + client.port.to_bytes(2, "big"), now)
        return (self._crowds if is_proven else self._strangers).admits(source_of(client.ip), now)

    def admits_connection(self, source: IPAddress, now: Instant) -> bool:
        """Whether a source may open one more connection, which with TLS costs us more."""
        return self._connections.admits(source_of(source), now)


class RateLimiter:
    """Limits how often something happens per key, in memory of a fixed size.

    Each key has one slot in each of two rows, by a secret hash. It is over its limit when both are: sharing one slot
    with a busy one costs nothing, and nobody can choose whom to share both with.
    """

    def __init__(self, per_second: int | None, secret: bytes) -> None:
        self._secret = secret
        self._cost: Duration = 0
        self._rows: tuple[array[int], ...] = ()
        self.replace(per_second)

    def replace(self, per_second: int | None) -> None:
        """This limit counts from now on."""
        self._cost = max(1, SECOND // per_second) if per_second else 0
        self._rows = tuple(array("q", bytes(8 << _SLOT_BITS if per_second else 0)) for _ in range(2))

    def admits(self, key: bytes, now: Instant) -> bool:
        """Whether it may happen once more; counts it if so."""
        if not self._cost:
            return True
        digest = int.from_bytes(hashlib.blake2s(key, key=self._secret, digest_size=4).digest(), "big")
        (one, other), i, j = self._rows, digest & _SLOT_MASK, digest >> _SLOT_BITS & _SLOT_MASK
        spent_until = max(min(one[i], other[j]), now - BUCKET_DEPTH) + self._cost
        if spent_until > now:
            return False
        one[i], other[j] = max(one[i], spent_until), max(other[j], spent_until)
        return True
