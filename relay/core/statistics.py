"""What the server counts: relayed data, answers, and every drop under a reason.

Labels are closed enums, never addresses or users. ``DropReason`` values are the metric's ``reason`` label.
"""

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias


class Direction(Enum):
    """Where relayed data goes. Data between two clients of this relay leaves to a client, so it counts as that."""

    TO_PEER = "to_peer"
    TO_CLIENT = "to_client"


class Volume:
    """What has moved in one direction: datagrams, and the bytes in them."""

    __slots__ = ("packets", "size")

    def __init__(self) -> None:
        self.packets = self.size = 0

    def add(self, packets: int, size: int) -> None:
        """So much more."""
        self.packets += packets
        self.size += size


class DropReason(Enum):
    """Why a datagram went nowhere."""

    NOT_TURN = "not_turn"  # neither STUN nor ChannelData
    MALFORMED_STUN = "malformed_stun"
    MALFORMED_CHANNEL_DATA = "malformed_channel_data"
    BAD_FINGERPRINT = "bad_fingerprint"
    UNEXPECTED_CLASS = "unexpected_class"  # responses, and indications that a server does not take
    MALFORMED_INDICATION = "malformed_indication"
    SOURCE_PORT_ZERO = "source_port_zero"
    NO_ALLOCATION = "no_allocation"
    NO_CHANNEL = "no_channel"
    NO_PERMISSION = "no_permission"
    PEER_REFUSED = "peer_refused"
    OVER_QUOTA = "over_quota"  # bandwidth
    TOO_MANY_REQUESTS = "too_many_requests"  # from one source
    OVERLOAD = "overload"  # requests that came faster than they could be answered: the oldest, and no client's
    TOO_LARGE = "too_large"  # for a Data indication


class QuotaKind(Enum):
    """What a refusal ran into: an allocation, a datagram, a request or a connection each counts once."""

    ALLOCATIONS_PER_USER = "allocations_per_user"
    ALLOCATIONS = "allocations"
    BANDWIDTH_PER_USER = "bandwidth_per_user"
    BANDWIDTH = "bandwidth"
    REQUESTS_PER_SOURCE = "requests_per_source"
    CONNECTIONS_PER_SOURCE = "connections_per_source"


class CredentialRefusal(Enum):
    """What was wrong with the credentials of a request that had some. A challenge to one without any is no refusal."""

    UNKNOWN_USER = "unknown_user"  # not listed, and no time-limited name
    WRONG_REALM = "wrong_realm"  # signed for another realm than ours
    WRONG_PASSWORD = "wrong_password"  # or, of a time-limited name, another secret
    EXPIRED = "expired"  # the right password of a time-limited name whose time is over


class IcmpFate(Enum):
    """What became of an ICMP error about a datagram that left from a relayed port."""

    RELAYED = "relayed"
    DROPPED = "dropped"  # of no kind that clients are told, or about a peer that the client may not reach


ResponseKey: TypeAlias = tuple[str, str, int]  # class ("success" or "error"), method, error code or 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The counters at one moment."""

    packets: dict[Direction, int]
    bytes: dict[Direction, int]
    drops: dict[DropReason, int]
    responses: dict[ResponseKey, int]
    quota_refusals: dict[QuotaKind, int]
    credential_refusals: dict[CredentialRefusal, int]
    icmp_errors: dict[IcmpFate, int]
    consumed: int
    allocations: int
    channels: int


class Statistics:
    """Counted where it happens. ``consumed`` counts datagrams that were control messages for us."""

    __slots__ = (
        "consumed",
        "credential_refusals",
        "drops",
        "icmp_errors",
        "moved",
        "quota_refusals",
        "responses",
    )

    def __init__(self) -> None:
        self.moved = {direction: Volume() for direction in Direction}
        self.consumed = 0
        self.drops: Counter[DropReason] = Counter()
        self.responses: Counter[ResponseKey] = Counter()
        self.quota_refusals: Counter[QuotaKind] = Counter()
        self.credential_refusals: Counter[CredentialRefusal] = Counter()
        self.icmp_errors: Counter[IcmpFate] = Counter()

    def snapshot(self, *, allocations: int, channels: int) -> Snapshot:
        """An independent copy."""
        return Snapshot(
            packets={direction: moved.packets for direction, moved in self.moved.items()},
            bytes={direction: moved.size for direction, moved in self.moved.items()},
            drops=dict(self.drops),
            responses=dict(self.responses),
            quota_refusals=dict(self.quota_refusals),
            credential_refusals=dict(self.credential_refusals),
            icmp_errors=dict(self.icmp_errors),
            consumed=self.consumed,
            allocations=allocations,
            channels=channels,
        )
