"""The JSON that clients and gateways are sent. A known type with a wrong field costs them the whole message."""

from connectivity.phoenix.message import Json
from connectivity.turn import credentials
from portal.configuration import Configuration, Filter, Resource, ResourceType
from portal.session import Device, Relay

ACCOUNT_SLUG = "postern"


def client_resource(configuration: Configuration, resource: Resource) -> dict[str, Json]:
    """A resource as clients read it: with the sites, here called gateway groups."""
    sites = [configuration.sites_by_id[site_id] for site_id in resource.site_ids]
    view: dict[str, Json] = {
        "type": _kind(resource),
        "id": resource.id,
        "gateway_groups": [{"id": site.id, "name": site.name} for site in sites],
        "filters": [_filter(entry) for entry in resource.filters],
    }
    if resource.type is ResourceType.INTERNET:
        return {**view, "name": resource.name, "can_be_disabled": True}
    view |= {"name": resource.name, "address": resource.address, "address_description": resource.description}
    if resource.type is ResourceType.DNS:
        view["ip_stack"] = resource.ip_stack
    return view


def gateway_resource(resource: Resource) -> dict[str, Json]:
    """A resource as gateways read it: with the filters."""
    view: dict[str, Json] = {
        "type": _kind(resource),
        "id": resource.id,
        "filters": [_filter(entry) for entry in resource.filters],
    }
    if resource.type is not ResourceType.INTERNET:
        view |= {"name": resource.name, "address": resource.address}
    return view


def client_interface(configuration: Configuration, device: Device) -> dict[str, Json]:
    """A client's tunnel addresses and DNS settings."""
    dns = configuration.dns
    return {
        "ipv4": str(device.ipv4),
        "ipv6": str(device.ipv6),
        "upstream_dns": [{"protocol": "ip_port", "address": str(server)} for server in dns.upstream],
        "search_domain": dns.search_domain,
    }


def gateway_init(device: Device, relays: list[dict[str, Json]], authorizations: list[dict[str, Json]]) -> Json:
    """A gateway's ``init``; nobody uses ``config`` but its absence makes the message undecodable."""
    return {
        "interface": {"ipv4": str(device.ipv4), "ipv6": str(device.ipv6)},
        "config": {"ipv4_masquerade_enabled": True, "ipv6_masquerade_enabled": True},
        "account_slug": ACCOUNT_SLUG,
        "relays": relays,
        "authorizations": authorizations,
    }


def turn_relays(relays: list[Relay], device: Device) -> list[dict[str, Json]]:
    """One entry per relay and address family, those of one relay next to each other so that they are merged."""
    salt = credentials.salt(device.public_key)
    expiry = device.turn_expiry
    entries: list[dict[str, Json]] = []
    for relay in relays:
        addresses = [str(relay.ipv4)] if relay.ipv4 else []
        addresses += [f"[{relay.ipv6}]"] if relay.ipv6 else []
        entries += [
            {
                "id": relay.id,
                "type": "turn",
                "addr": f"{address}:{relay.port}",
                "username": credentials.username(expiry, salt),
                "password": credentials.password(expiry, relay.stamp_secret, salt),
                "expires_at": expiry,
            }
            for address in addresses
        ]
    return entries


def _kind(resource: Resource) -> str:
    return ResourceType.CIDR.value if resource.type is ResourceType.IP else resource.type.value


def _filter(entry: Filter) -> dict[str, Json]:
    if entry.ports is None:
        return {"protocol": entry.protocol}
    return {"protocol": entry.protocol, "port_range_start": entry.ports[0], "port_range_end": entry.ports[1]}
