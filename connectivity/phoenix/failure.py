"""Which failures of an attempt to reach the portal end the component and which are tried again.

Fatal: the portal's own refusals (HTTP 4xx except 408 and 429) and a certificate that is not to be trusted. Everything
else is transient and goes through the back-off. 401 and 403 mean that the token is at fault.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from connectivity.clock import SECOND, Duration, WallTime
from connectivity.errors import FatalError

MAXIMUM_RETRY_AFTER_NS: Final = 15 * 60 * SECOND  # a server that asks for more does not get it

_RETRIED_STATUSES: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
# How TLS fails on what is none; and how a server of TLS ends what is none.
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")
_PERHAPS_TLS: Final = ("Server disconnected", "Connection reset by peer", "\\x15\\x03", "400 ")
_AUTHENTICATION_STATUSES: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class PortalFatal(FatalError):
    """The portal link is over; the text is one line. ``is_authentication``: a new token is needed."""

    def __init__(self, reason: str, *, status: int | None = None, is_authentication: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.is_authentication = is_authentication


@dataclass(frozen=True, slots=True)
class Transient:
    """Try again, not sooner than ``retry_after_ns``."""

    reason: str
    retry_after_ns: Duration = 0


def remedy(scheme: str, reason: str) -> str:
    """What to look at when the portal cannot be reached by ``ws`` or ``wss`` for this reason."""
    if scheme == "wss" and any(text in reason for text in _NO_TLS):
        return "it speaks no TLS there: http:// or ws:// in FIREZONE_API_URL, or the port that does"
    if scheme == "ws" and any(text in reason for text in _PERHAPS_TLS):
        return "if it speaks TLS there: https:// or wss:// in FIREZONE_API_URL; else look at its log"
    return "look at FIREZONE_API_URL, the portal and the way to it; tunnels that are up go on"


def classify_status(status: int, retry_after: str | None, wall_now: WallTime) -> PortalFatal | Transient:
    """What an HTTP answer other than 101 means."""
    text = f"Failed to establish WebSocket connection: {describe_status(status)}"
    if status == HTTPStatus.UNAUTHORIZED:
        text += ": the portal has no such token, or it has ended"
    if 400 <= status < 500 and status not in _RETRIED_STATUSES:
        return PortalFatal(
            f"Failed to login to portal: {text}", status=status, is_authentication=status in _AUTHENTICATION_STATUSES
        )
    return Transient(text, parse_retry_after(retry_after, wall_now))


def describe_status(status: int) -> str:
    """``401 Unauthorized``; a number alone where the registry has no name."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def parse_retry_after(text: str | None, wall_now: WallTime) -> Duration:
    """RFC 9110 §10.2.3: seconds or a date. Nothing usable is 0."""
    if text is None:
        return 0
    stripped = text.strip()
    if stripped.isascii() and stripped.isdecimal():
        return min(int(stripped[:9]) * SECOND, MAXIMUM_RETRY_AFTER_NS)
    try:
        moment = parsedate_to_datetime(stripped)
    except ValueError:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    delay = int((moment - datetime.fromtimestamp(wall_now / SECOND, UTC)).total_seconds() * SECOND)
    return max(0, min(delay, MAXIMUM_RETRY_AFTER_NS))
