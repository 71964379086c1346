"""The portal's word that there is a gateway for a resource, and how to reach it."""

from dataclasses import dataclass

from connectivity.ice import IceCredentials
from connectivity.portal import values
from connectivity.portal.values import Interface, Json, text


@dataclass(frozen=True, slots=True)
class FlowCreated:
    """A ``flow_created``; ``site_id`` and ``gateway_name`` are empty if the portal does not say."""

    resource_id: str
    gateway_id: str
    gateway_name: str
    site_id: str
    interface: Interface
    public_key: bytes
    preshared_key: bytes
    local: IceCredentials
    remote: IceCredentials


def parse_flow_created(message: Json) -> FlowCreated:
    """Read one.

    Raises:
        MessageError: a field is missing or bad.
    """
    site_id = message.get("gateway_group_id", message.get("site_id"))
    return FlowCreated(
        resource_id=text(message, "resource_id"),
        gateway_id=text(message, "gateway_id"),
        gateway_name=values.name_for_people(message, "gateway_name"),
        site_id=site_id if isinstance(site_id, str) else "",
        interface=values.addresses(message, "gateway_ipv4", "gateway_ipv6"),
        public_key=values.key(message, "gateway_public_key"),
        preshared_key=values.key(message, "preshared_key"),
        local=values.credentials(message, "client_ice_credentials"),
        remote=values.credentials(message, "gateway_ice_credentials"),
    )
