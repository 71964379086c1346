"""What clients and gateways read out of the portal's JSON, checked once at the border."""

from connectivity.portal.values import (
    Interface,
    MessageError,
    addresses,
    candidates,
    credentials,
    interface,
    key,
    listing,
    mapping,
    network,
    relays,
    relays_presence,
    text,
    timestamp,
)

__all__ = [
    "Interface",
    "MessageError",
    "addresses",
    "candidates",
    "credentials",
    "interface",
    "key",
    "listing",
    "mapping",
    "network",
    "relays",
    "relays_presence",
    "text",
    "timestamp",
]
