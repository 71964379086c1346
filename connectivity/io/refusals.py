"""Errors of single packets: counted by reason, told once a minute for each; all of them only at DEBUG.

Whoever sends packets, a peer, a host behind the tunnel or a stranger, decides how many errors there are.
"""

import errno
import logging
from collections import Counter
from typing import Final

from connectivity.clock import SECOND, Instant
from connectivity.errors import chain
from connectivity.ip.packet import IpError
from connectivity.node import NodeError, StrayDatagramError, UnknownConnectionError, datagrams_of

TELL_EVERY: Final = 60 * SECOND
# Names of errno and of our own errors: few, but nothing here may grow with what others send.
MAX_REASONS: Final = 64
# What changing networks and other people's datagrams are like: no news.
_QUIET: Final = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EHOSTDOWN, errno.EINVAL}
# What anybody can send, so that it has to be cheap: not words before they are shown, nor a look at all kinds of errors.
_OF_STRANGERS: Final[dict[type[Exception], str]] = {
    UnknownConnectionError: "unknown_connection",
    StrayDatagramError: "stray_datagram",
}

log = logging.getLogger("connectivity.io")


class Refusals:
    """The errors of one tunnel by reason; ``counts`` only ever grow."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._told: Counter[str] = Counter()  # reasons told of since the last time, with their counts then
        self._tell_at: Instant | None = None

    def note(self, error: Exception, now: Instant) -> None:
        """Count an error; the first of its reason is told, unless it is none to be told of."""
        reason = _OF_STRANGERS.get(type(error)) or reason_of(error)
        if len(self.counts) >= MAX_REASONS and reason not in self.counts:
            reason = "other"
        self.counts[reason] += datagrams_of(error)
        if _is_quiet(error) or reason in self._told:
            if log.isEnabledFor(logging.DEBUG):
                log.debug("Tunnel error", extra={"fields": {"error": chain(error)}})
            return
        log.warning("Tunnel error", extra={"fields": {"reason": reason, "error": chain(error)}})
        self._told[reason] = self.counts[reason]
        if self._tell_at is None:
            self._tell_at = now + TELL_EVERY

    def tell(self, now: Instant | None = None) -> None:
        """Tell how many more there were, once a minute; without a time, now and for the last time."""
        if self._tell_at is None or (now is not None and now < self._tell_at):
            return
        more = {reason: self.counts[reason] - told for reason, told in self._told.items() if self.counts[reason] > told}
        if more:
            log.warning("More tunnel errors in the last minute", extra={"fields": more})
        self._tell_at = None if not more or now is None else now + TELL_EVERY
        self._told = Counter({reason: self.counts[reason] for reason in more})  # they go on


def reason_of(error: Exception) -> str:
    """A word from a closed set."""
    match error:
        case IpError():
            return f"{error.reason.value}_packet"
        case UnknownConnectionError() | StrayDatagramError():
            return _OF_STRANGERS[type(error)]
        case NodeError():
            return "handshake"
        case OSError(errno=int(number)):
            return errno.errorcode.get(number, "unknown_errno").lower()
        case _:
            return type(error).__name__


def _is_quiet(error: Exception) -> bool:
    return type(error) in _OF_STRANGERS or (isinstance(error, OSError) and error.errno in _QUIET)
