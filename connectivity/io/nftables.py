"""The command ``nft``: run a script, list what is there."""

import errno
import json
import os
import subprocess
from typing import Any, Final, TypeAlias

from connectivity.io.privileges import forbidden

# A ruleset of a busy host is some megabytes; nobody waits longer than this for it.
_TIMEOUT_SECONDS: Final = 10

Objects: TypeAlias = list[dict[str, Any]]


class NftError(Exception):
    """``nft`` is missing, may not, or refused."""


def run(script: str) -> None:
    """Run a script, all of it or nothing.

    Raises:
        NftError: with what nft said.
    """
    _nft(["-f", "-"], script)


def listing(*words: str) -> Objects:
    """What ``nft list WORDS`` shows, by kind; sets without their elements.

    Raises:
        NftError: with what nft said.
    """
    try:
        found: Objects = json.loads(_nft(["-j", "-t", "list", *words]))["nftables"]
    except (ValueError, KeyError) as error:
        raise NftError(f"nft list {' '.join(words)} is no JSON: {error}") from error
    return found


def _nft(arguments: list[str], script: str = "") -> str:
    try:
        done = subprocess.run(
            ["nft", *arguments], input=script, text=True, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NftError(f"nft: {error}") from error
    if done.returncode == 0:
        return done.stdout
    said = f"nft: {' '.join(done.stderr.split()) or done.returncode}"
    if os.strerror(errno.EPERM) in said:
        said = f"{forbidden('loading its rules', 'CAP_NET_ADMIN')}: {said}"
    raise NftError(said)
