"""What a new configuration changes, in words for whoever edited the file."""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from portal import access
from portal.configuration import Configuration, Token, TokenType

MAXIMUM_PARTS: Final = 20  # what a person reads of one line
# Tokens times resources: more would take over a second to compare, and nobody is served meanwhile.
MAXIMUM_PAIRS: Final = 100_000

_LISTS: Final = ("sites", "resources", "policies", "tokens")


def describe(old: Configuration, new: Configuration, wall_seconds: int) -> list[str]:
    """What there is more or less of, which tokens are others, who may reach what. Bounded; empty for no difference."""
    found = list(islice(_differences(old, new, wall_seconds), MAXIMUM_PARTS + 1))
    return found if len(found) <= MAXIMUM_PARTS else [*found[:MAXIMUM_PARTS], "and more"]


def _differences(old: Configuration, new: Configuration, wall: int) -> Iterator[str]:
    for name in _LISTS:
        before, after = getattr(old, name), getattr(new, name)
        if len(before) != len(after):
            yield f"{name} {len(before)} → {len(after)}"
        elif before != after:
            yield f"{name} changed"
    for name in ("listen", "trusted_proxies", "dns", "secret"):
        if getattr(old, name) != getattr(new, name):
            yield f"{name} changed"
    for name in sorted(old.tokens_by_name.keys() & new.tokens_by_name.keys()):
        before, after = (set(configuration.tokens_by_name[name].texts) for configuration in (old, new))
        if len(before) != len(after):
            yield f"texts of the token of {name} {len(before)} → {len(after)}"
        elif before != after:
            yield f"token of {name} replaced"
    yield from _access(old, new, wall)


def _access(old: Configuration, new: Configuration, wall: int) -> Iterator[str]:
    names = {token.name: None for token in (*old.tokens, *new.tokens) if token.type is TokenType.CLIENT}
    resources = {**old.resources_by_id, **new.resources_by_id}
    if len(names) * len(resources) > MAXIMUM_PAIRS:
        yield "too much to compare who may reach what"
        return
    for name in names:
        for resource_id, resource in resources.items():
            before, after = (_end(configuration, name, resource_id, wall) for configuration in (old, new))
            if before == after:
                continue
            verb = "taken away" if after is None else "given" if before is None else "ends at another time"
            yield f"access of {name} to {resource.name} {verb}"


def _end(configuration: Configuration, name: str, resource_id: str, wall: int) -> int | None:
    token: Token | None = configuration.tokens_by_name.get(name)
    resource = configuration.resources_by_id.get(resource_id)
    if token is None or token.type is not TokenType.CLIENT or resource is None:
        return None
    return access.access_expiry(configuration, token, resource, wall)
