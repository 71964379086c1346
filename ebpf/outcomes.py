"""What the program did with a packet, and in which direction: the numbers of ``include/abi.h``, in Python.

Append-only within each range: below 16 the packet was forwarded, from 16 on it went up to the stack and thereby to the
Python path, from 64 on it was dropped. A test compares both lists.
"""

from enum import IntEnum
from typing import Final

FIRST_PUNT: Final = 16
FIRST_DROP: Final = 64
OUTCOME_COUNT: Final = 72


class Direction(IntEnum):
    """Which way a packet of a flow goes. NONE: not known to belong to one."""

    TO_PEER = 0
    TO_CLIENT = 1
    BETWEEN_CLIENTS = 2
    NONE = 3


class Outcome(IntEnum):
    """Why a packet was forwarded, passed up or dropped; ``include/abi.h`` says more about each."""

    FORWARD_ROUTE = 1
    FORWARD_NEXT_HOP = 2
    FORWARD_RETURN = 3
    FORWARD_PROBE = 4

    PUNT_NOT_IP = 16
    PUNT_VLAN = 17
    PUNT_TRUNCATED = 18
    PUNT_IPV4_OPTIONS = 19
    PUNT_FRAGMENT = 20
    PUNT_IPV6_EXTENSION = 21
    PUNT_NOT_UDP = 22
    PUNT_NOT_OURS = 23
    PUNT_BAD_LENGTH = 24
    PUNT_OTHER_PORT = 25
    PUNT_NOT_CHANNEL_DATA = 26
    PUNT_CHANNEL_LENGTH = 27
    PUNT_PADDED = 28
    PUNT_NO_CHECKSUM = 29
    PUNT_FROM_PEER = 30
    PUNT_UNKNOWN_FLOW = 31
    PUNT_EXPIRED = 32
    PUNT_RECYCLED = 33
    PUNT_TOO_LONG = 34
    PUNT_UNROUTABLE = 35
    PUNT_NO_NEIGHBOUR = 36
    PUNT_MTU = 37
    PUNT_EGRESS = 38
    PUNT_HEADROOM = 39
    PUNT_IPV4_CHECKSUM = 40
    # 41 is retired.

    DROP_REWRITE = 64
    DROP_OVER_QUOTA = 65

    @property
    def is_forward(self) -> bool:
        """The packet left by an interface."""
        return self < FIRST_PUNT

    @property
    def is_drop(self) -> bool:
        """The packet ended here; all others that are no forward went up."""
        return self >= FIRST_DROP

    @property
    def reason(self) -> str:
        """The name for metrics: ``unknown_flow``, ``mtu``."""
        return self.name.partition("_")[2].lower()
