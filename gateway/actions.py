"""What only a gateway's core asks of its driver."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ResolveDomain:
    """Look up the IPv4 and IPv6 addresses of a name; the answer goes to ``GatewayCore.handle_resolution``."""

    domain: str
