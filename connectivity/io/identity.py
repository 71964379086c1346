"""The device id that the portal knows this machine by, kept across restarts."""

import hashlib
import json
import logging
import os
import uuid
from pathlib import Path

from connectivity.errors import chain

log = logging.getLogger("connectivity.io")


def load_or_create(path: Path) -> str:
    """The stored id; a new one is written where there is none, and used for this run where that fails.

    The file holds ``{"id": "<64 hex>"}``; plain text of older versions is accepted.
    """
    try:
        stored = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        stored = ""
    device_id = _parse(stored)
    if device_id:
        return device_id
    device_id = hashlib.sha256(str(uuid.uuid4()).encode()).hexdigest()
    try:
        path.parent.mkdir(mode=0o770, parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps({"id": device_id}), encoding="utf-8")
        temporary.chmod(0o640)
        os.replace(temporary, path)
    except OSError as error:
        log.warning("Cannot store the device id", extra={"fields": {"path": path, "error": chain(error)}})
    return device_id


def _parse(stored: str) -> str:
    try:
        value = json.loads(stored)
    except ValueError:
        return stored
    if isinstance(value, dict):
        found = value.get("id")
        return found if isinstance(found, str) else ""
    return value if isinstance(value, str) else stored  # plain text that happens to be JSON, say a number
