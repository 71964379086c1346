"""The secret that a portal makes once and keeps in a file, for a configuration that names none.

Tunnel addresses, preshared keys and ICE credentials rest on it: whoever reads it can compute them, and where it is lost
they are others from then on. So a file that holds anything else is never overwritten.
"""

import logging
import os
import re
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from connectivity.settings import SettingsError
from connectivity.yaml_document import others_may_read, reason, remedy

_SECRET_BYTES: Final = 32
_SECRET: Final = re.compile(r"[0-9a-zA-Z_-]{32,256}", re.ASCII)

_logger = logging.getLogger("portal")


def load_or_create(path: Path) -> str:
    """The stored secret; a new one is stored where there is none.

    Returns:
        The secret, or "" where a new one cannot be stored, which is said.

    Raises:
        SettingsError: there is a file, and no secret can be read from it.
    """
    try:
        stored = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return _create(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"POSTERN_PORTAL_STATE is {str(path)!r}: cannot be read: {reason(error)}"]) from None
    if not _SECRET.fullmatch(stored):
        expectation = "expected a secret of at least 32 letters and digits (remove the file to have one made)"
        raise SettingsError([f"POSTERN_PORTAL_STATE is {str(path)!r}: {expectation}"])
    if others_may_read(path):
        fields = {"file": path, "remedy": remedy(path)}
        _logger.warning("Others may read the portal's secret", extra={"fields": fields})
    return stored


def _create(path: Path) -> str:
    secret = secrets.token_hex(_SECRET_BYTES)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")  # mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{secret}\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # unlike a rename it replaces nothing
        finally:
            with suppress(OSError):
                os.unlink(temporary)
    except FileExistsError:
        return load_or_create(path)  # another portal was quicker
    except OSError as error:
        fields = {"path": path, "error": reason(error)}
        _logger.warning("The portal's secret cannot be kept", extra={"fields": fields})
        return ""
    _logger.info("Made a secret", extra={"fields": {"file": path}})
    return secret
