"""Where the client's token comes from: the environment, or a file that only root can read.

A file is read again whenever the client begins anew, so that another token needs no restart.
"""

import os
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Final

from connectivity.errors import FatalError
from connectivity.settings import token_or_file

DEFAULT_PATH: Final = "/etc/dev.firezone.client/token"
_FORBIDDEN_MODE: Final = 0o177  # everything but reading and writing by the owner


def take_token(environ: MutableMapping[str, str], path: Path) -> str:
    """The token; the variable is removed from the environment so that no child process inherits it.

    Raises:
        FatalError: neither the variable nor a safe file gives one.
    """
    token = environ.pop("FIREZONE_TOKEN", "").strip()
    if not token:
        return _read(path)
    try:
        return token_or_file(token)
    except ValueError as error:
        raise FatalError(f"FIREZONE_TOKEN: {error}") from None


def rereading(told: str, path: Path) -> Callable[[], str] | None:
    """What reads the token again; None where ``told``, the variable's value, was the token itself.

    What it returns raises FatalError as ``take_token`` does.
    """
    if told and not told.startswith("/"):
        return None
    return lambda: take_token({"FIREZONE_TOKEN": told}, path)


def _read(path: Path) -> str:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise FatalError(f"Can't find the Firezone token in $FIREZONE_TOKEN or in '{path}'") from None
    except OSError as error:
        raise FatalError(f"Can't look at the token file '{path}'") from error
    if status.st_uid != 0 or status.st_gid != 0 or status.st_mode & _FORBIDDEN_MODE:
        raise FatalError(f"Token file '{path}' must belong to root and be readable by root only (mode 0600 or 0400)")
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FatalError(f"Can't read the token file '{path}'") from error
