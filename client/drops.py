"""Why the client lets packets go no further."""

from enum import StrEnum


class ClientDrop(StrEnum):
    """Reasons of dropped packets and queries, under which they are counted."""

    NO_RESOURCE = "no_resource"  # the host sends to what no resource is
    NO_GATEWAY = "no_gateway"  # the host sends to a tunnel address that no gateway in use has
    NOT_OF_GATEWAY = "not_of_gateway"  # a gateway sends from what it does not serve
    UNREACHABLE = "unreachable"  # packets have waited for a gateway and there is none
    NAME_FAILED = "name_failed"  # the gateway does not resolve the name, or said nothing while it waited
    NO_SENTINEL = "no_sentinel"  # to where names could be asked for, but nobody is behind that address and port
    DNS_IGNORED = "dns_ignored"  # a query that cannot be read, or is none
    DNS_FULL = "dns_full"  # too many queries are under way
