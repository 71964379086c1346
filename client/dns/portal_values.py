"""What the portal's interface object says about DNS."""

import re
from typing import Final

from connectivity.endpoint import Endpoint
from connectivity.portal.values import Json, MessageError, listing, mapping, text

_LONGEST_NAME: Final = 253
# It is written to files that other programs read: nothing in it may end a line or a word.
_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def upstream_servers(interface: Json) -> tuple[Endpoint, ...]:
    """The servers that are to be asked instead of the host's.

    Raises:
        MessageError: one is reached by another protocol than plain DNS, or has no port.
    """
    servers = []
    for entry in listing(interface, "upstream_dns", optional=True):
        server = mapping(entry, "upstream_dns")
        if text(server, "protocol") != "ip_port":
            raise MessageError(f"upstream_dns: unknown protocol {server['protocol']!r}")
        try:
            servers.append(Endpoint.parse(text(server, "address")))
        except ValueError as error:
            raise MessageError(f"upstream_dns: {error}") from error
    return tuple(servers)


def search_domain(interface: Json) -> str | None:
    """What the host puts behind names of one label.

    Raises:
        MessageError: it is no name.
    """
    value = interface.get("search_domain")
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not _is_name(value):
        raise MessageError(f"search_domain: expected a name, got {value!r}")
    return value


def _is_name(value: str) -> bool:
    return all(_LABEL.fullmatch(label) for label in value.split("."))
