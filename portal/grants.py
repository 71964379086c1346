"""Whom each gateway was told to let in to what, bounded so that one entry of the tokens leaves room for others."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from portal.configuration import Resource, Token

MAXIMUM_GRANTS_PER_GATEWAY: Final = 65_536
# Devices and resources multiply: a token with many of both would fill the table, where grants may have no end.
MAXIMUM_GRANTS_PER_TOKEN: Final = 32_768

Pair: TypeAlias = tuple[str, str]  # client, resource


@dataclass(slots=True)
class Grant:
    """What a gateway was told. ``token`` is the one that the client used."""

    token: Token
    resource: Resource
    expires_at: int


class Grants:
    """The grants of one gateway, by client and resource."""

    def __init__(self) -> None:
        self._grants: dict[Pair, Grant] = {}
        self._held: Counter[str] = Counter()  # by the name of the token's entry

    def __len__(self) -> int:
        return len(self._grants)

    def items(self) -> list[tuple[Pair, Grant]]:
        """All grants as they are now."""
        return list(self._grants.items())

    def tokens(self) -> Mapping[str, Token]:
        """The clients that have one, with the token of the newest."""
        return {client_id: grant.token for (client_id, _), grant in self._grants.items()}

    def has_room(self, pair: Pair, token: Token) -> bool:
        """Whether this one may be added, or takes the place of an earlier one."""
        if pair in self._grants:
            return True
        return len(self._grants) < MAXIMUM_GRANTS_PER_GATEWAY and self._held[token.name] < MAXIMUM_GRANTS_PER_TOKEN

    def add(self, pair: Pair, grant: Grant) -> None:
        """One for which there is room."""
        if pair not in self._grants:
            self._held[grant.token.name] += 1
        self._grants[pair] = grant

    def remove(self, pair: Pair) -> None:
        """One that has ended."""
        name = self._grants.pop(pair).token.name
        self._held[name] -= 1
        if not self._held[name]:
            del self._held[name]
