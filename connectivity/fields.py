"""A logger whose lines all name whom they are about."""

import logging
from collections.abc import MutableMapping
from typing import Any


class OwnedLog(logging.LoggerAdapter[logging.Logger]):
    """Puts its owner's fields in front of those of each line; no work is done for lines that nobody hears."""

    def __init__(self, logger: logging.Logger, **owner: object) -> None:
        super().__init__(logger, owner)

    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[object, MutableMapping[str, Any]]:
        """Called by the base class for a line that is heard."""
        fields = kwargs.get("extra", {}).get("fields", {})
        kwargs["extra"] = {"fields": {**(self.extra or {}), **fields}}
        return msg, kwargs
