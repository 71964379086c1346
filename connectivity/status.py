"""What a client or gateway tells people about itself, beside its connections: resources, grants, name servers.

Plain values that a role's core fills when it is asked; nothing is kept for it. Names are as the portal sent them, to be
escaped where a person reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from connectivity.endpoint import IPAddress


@dataclass(frozen=True, slots=True)
class ResourceStatus:
    """A resource of a client.

    Attributes:
        kind: ``cidr``, ``dns`` or ``internet``.
        address: a network or a pattern; of the Internet resource none.
        state: ``online`` if a gateway of its sites is connected, ``offline`` if the portal knew none, else ``unknown``.
        gateway_id: the gateway that its packets go to.
    """

    resource_id: str
    name: str
    kind: str
    address: str
    state: str
    gateway_id: str | None
    gateway_name: str = ""


@dataclass(frozen=True, slots=True)
class GrantStatus:
    """What a client may reach through a gateway, until ``expires_at`` (unix seconds; None never)."""

    resource_id: str
    kind: str
    address: str
    expires_at: int | None
    name: str = ""


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """A client of a gateway; it may have no connection just now. ``actor`` is whose it is."""

    client_id: str
    addresses: tuple[IPAddress, ...]
    grants: tuple[GrantStatus, ...]
    name: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """All of it: a client has resources, a gateway clients; ``names`` are those of peers by id, empty if unknown."""

    resources: tuple[ResourceStatus, ...] | None = None
    clients: tuple[ClientStatus, ...] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
