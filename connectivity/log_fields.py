"""Fields of log lines that say whose connection a line is about: their names, and a logger that adds them."""

import logging
from collections.abc import MutableMapping
from typing import Any


def peer_field(*, controlling: bool) -> str:
    """The field with the peer's id: ``gid`` on a client, whose peers are gateways, ``cid`` on a gateway."""
    return "gid" if controlling else "cid"


class OwnedLog(logging.LoggerAdapter[logging.Logger]):
    """A logger that adds its owner's fields to each line; lines that are filtered out cost nothing."""

    def __init__(self, logger: logging.Logger, **owner: object) -> None:
        super().__init__(logger, owner)

    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[object, MutableMapping[str, Any]]:
        """Called by the base class for a line that is heard."""
        fields = kwargs.get("extra", {}).get("fields", {})
        kwargs["extra"] = {"fields": {**(self.extra or {}), **fields}}
        return msg, kwargs
