"""Protocol numbers of what IP packets carry (IANA, Assigned Internet Protocol Numbers)."""

from typing import Final

PROTOCOL_ICMP: Final = 1
PROTOCOL_TCP: Final = 6
PROTOCOL_UDP: Final = 17
PROTOCOL_ICMPV6: Final = 58
ICMP_PROTOCOLS: Final = frozenset({PROTOCOL_ICMP, PROTOCOL_ICMPV6})
