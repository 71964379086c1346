"""File descriptors of this process: as many as it may have, and the last ones not for strangers."""

import errno
import logging
import os
import resource
from typing import Final

KEPT_FREE: Final = 32  # for files that are read again, name look-ups, the link to the portal, the operator

_log = logging.getLogger("connectivity.io")


def raise_limit() -> None:
    """Use all the descriptors that the hard limit allows; at the start of every service."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # a hard limit above fs.nr_open, for one
        _log.debug("The limit of file descriptors stays", extra={"fields": {"limit": soft, "error": error}})
        return
    _log.debug("Raised the limit of file descriptors", extra={"fields": {"before": soft, "limit": hard}})


def limit() -> int:
    """How many this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 31 if soft == resource.RLIM_INFINITY else soft


def keep_some_free(any_descriptor: int, kept: int) -> None:
    """To be asked before a stranger gets a descriptor: the last ``kept``, or a quarter if that is less, are for others.

    Raises:
        OSError: only those are left, as if there were none.
    """
    most = limit()
    lowest_free = os.dup(any_descriptor)
    os.close(lowest_free)
    if most - min(kept, most // 4) <= lowest_free:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
