"""Who may use what until when: pure functions of a configuration, denying by default."""

from portal.configuration import Configuration, Policy, Resource, ResourceType, Token
from portal.login import Version

# Older clients and gateways do not know the Internet resource.
_INTERNET_SINCE = (1, 3, 0)


def access_expiry(configuration: Configuration, token: Token, resource: Resource, wall_seconds: int) -> int | None:
    """When the token's access to the resource ends; None for no access at all.

    The latest of the policies that apply, capped by the token's own expiry.
    """
    ends = [policy.expires_at for policy in _policies(configuration, token, resource)]
    end = min(max(ends, default=0), token.expires_at)
    return end if end > wall_seconds else None


def has_expired_policy(configuration: Configuration, token: Token, resource: Resource, wall_seconds: int) -> bool:
    """Whether a policy would apply if it had not ended."""
    return any(policy.expires_at <= wall_seconds for policy in _policies(configuration, token, resource))


def connectable(configuration: Configuration, token: Token, version: Version, wall_seconds: int) -> list[Resource]:
    """The resources a client is told about."""
    return [
        resource
        for resource in configuration.resources
        if resource.site_ids
        and supports(version, resource)
        and access_expiry(configuration, token, resource, wall_seconds) is not None
    ]


def supports(version: Version, resource: Resource) -> bool:
    """Whether a component of that version knows this kind of resource."""
    return resource.type is not ResourceType.INTERNET or version >= _INTERNET_SINCE


def compatible(client: Version, gateway: Version) -> bool:
    """A client M.m works with gateways from M.(m-1) to M.(m+1)."""
    return client[0] == gateway[0] and client[1] - 1 <= gateway[1] < client[1] + 2


def _policies(configuration: Configuration, token: Token, resource: Resource) -> list[Policy]:
    return [
        policy
        for policy in configuration.policies_by_resource.get(resource.id, ())
        if policy.groups & token.groups or token.actor in policy.actors or token.name in policy.tokens
    ]
