"""What a step that the kernel did not permit would have needed, in words.

``privileged`` stands around each step that takes a capability (capabilities(7)), so that "Operation not permitted"
never stands alone: it says at which step, and what was missing.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Final

# linux/capability.h
CAPABILITIES: Final = {
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_MKNOD": 27,
}
FIRST_FREE_PORT: Final = 1024  # unless sysctl net.ipv4.ip_unprivileged_port_start says less
_STATUS: Final = Path("/proc/self/status")


@contextmanager
def privileged(step: str, capability: str) -> Iterator[None]:
    """Say which capability ``step`` (as in "marking the socket") takes if it is not permitted.

    Raises:
        PermissionError: the same error, in words, caused by the one that the kernel gave.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES):
            raise
        raise OSError(error.errno, forbidden(step, capability)) from error


def forbidden(step: str, capability: str) -> str:
    """What to say of a step that was not permitted."""
    if lacks(capability):
        return f"{step} takes {capability}, which this process does not have"
    # In a user namespace a capability counts for what belongs to that namespace only.
    others = "a security module, a user namespace or a file's mode"
    return f"{step} is forbidden although this process has {capability}: by {others}"


def low_port(port: int) -> AbstractContextManager[None]:
    """The step of listening on ``port``, which takes a privilege where the number is a low one."""
    if 0 < port < FIRST_FREE_PORT:
        return privileged(f"listening on a port below {FIRST_FREE_PORT}", "CAP_NET_BIND_SERVICE")
    return nullcontext()


def lacks(capability: str, status: Path = _STATUS) -> bool:
    """Whether this process does without this capability; False where nothing says so."""
    try:
        match = re.search(r"^CapEff:\s*([0-9a-f]+)$", status.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return False
    return match is not None and not int(match[1], 16) >> CAPABILITIES[capability] & 1
