"""Why a gateway lets something go no further, for counters (``docs/operating.md`` lists them)."""

from enum import StrEnum


class GatewayDrop(StrEnum):
    """Why a packet of a client or of the host goes no further, or a name is not set up as a client wants it."""

    SPOOFED = "spoofed"  # a client sends from an address that is not its own
    FILTERED = "filtered"  # a client sends to what it may not reach
    UNAUTHORIZED = "unauthorized"  # a peer sends that no client with an authorization is
    NO_CLIENT = "no_client"  # the host sends to an address that no client has
    FILTERED_REPLY = "filtered_reply"  # the host sends a client what is of no resource of its
    NAME_UNREACHABLE = "name_unreachable"  # a client sends to a name without a usable address of this family
    UNTRANSLATABLE = "untranslatable"  # a client sends to a name what address translation does not know
    NAT_EXPIRED = "nat_expired"  # the host sends late for a session with a name
    NAT_FULL = "nat_full"  # all clients together have too many sessions with names
    NAT_FULL_FOR_CLIENT = "nat_full_for_client"  # this one has
    NAT_EXHAUSTED = "nat_exhausted"  # all ports towards one real address are taken
    NAME_REFUSED = "name_refused"  # a client sets up a name of no resource of its
    NAME_OVER_BUDGET = "name_over_budget"  # a client sets up names too fast
    NAME_FORGOTTEN = "name_forgotten"  # a client has too many names: its least recent one
    NAMES_FULL = "names_full"  # all clients together have too many, or too many are being looked up
    NAME_UNRESOLVED = "name_unresolved"  # no answer, or no such name
