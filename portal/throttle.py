"""Wrong tokens, counted by the address that they come from.

The first few of an address get an honest 401, which ends the program that asked; beyond that the answer is a 503, which
programs of any year take for a reason to come back later: a 429 or 403 would end those of 2025 without a word of why. A
right token is never asked whether wrong ones came before it, so nobody keeps his neighbours out.

An address is a whole /64 of IPv6, which is what one host may choose from. The first wrong token of an address is told
at once, the others as one number when a minute has passed.
"""

from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

from connectivity.clock import SECOND, Duration, Instant

HONEST_ANSWERS: Final = 10  # within a window; a person who mistypes a token needs fewer
WINDOW: Final[Duration] = 60 * SECOND
RETRY_AFTER_SECONDS: Final = 60
MAXIMUM_SOURCES: Final = 4096  # about 1 MiB; the oldest window is closed before its time


@dataclass(frozen=True, slots=True)
class Report:
    """Wrong tokens of one source: the first one, or how many there were in a window."""

    source: str
    count: int


@dataclass(slots=True)
class _Window:
    ends_at: Instant
    count: int = 0


class WrongTokens:
    """Who has come with how many of them lately. Reports wait until they are polled."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}  # by their ends
        self._reports: list[Report] = []

    def note(self, address: str, now: Instant) -> bool:
        """Count one; whether its sender gets an honest answer."""
        self.handle_timeout(now)
        source = _source(address)
        window = self._windows.get(source)
        if window is None:
            if len(self._windows) >= MAXIMUM_SOURCES:
                self._close(next(iter(self._windows)))
            window = self._windows[source] = _Window(now + WINDOW)
            self._reports.append(Report(source, 1))
        window.count += 1
        return window.count <= HONEST_ANSWERS

    def handle_timeout(self, now: Instant) -> None:
        """Close the windows that have ended."""
        while self._windows and next(iter(self._windows.values())).ends_at <= now:
            self._close(next(iter(self._windows)))

    def poll(self) -> Report | None:
        """What is to be told next."""
        return self._reports.pop(0) if self._reports else None

    def _close(self, source: str) -> None:
        window = self._windows.pop(source)
        if window.count > 1:
            self._reports.append(Report(source, window.count))


def _source(address: str) -> str:
    try:
        found = ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(found, IPv6Address):
        mapped = found.ipv4_mapped
        return str(mapped) if mapped is not None else str(IPv6Network((found.packed, 64), strict=False))
    return str(found)
