"""What the three ways to control the host's DNS have in common."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from client.dns.system_servers import SystemServer
from connectivity.endpoint import IPAddress
from connectivity.errors import FatalError

SETTING: Final = "FIREZONE_DNS_CONTROL"
SYSTEMD_RESOLVED: Final = "systemd-resolved"
ETC_RESOLV_CONF: Final = "etc-resolv-conf"
DISABLED: Final = "disabled"
DEFAULT: Final = SYSTEMD_RESOLVED
MODES: Final = (SYSTEMD_RESOLVED, ETC_RESOLV_CONF, DISABLED)


class DnsControlError(FatalError):
    """The host's DNS cannot be controlled in this mode: what is so, and what to do instead."""

    def __init__(self, mode: str, problem: str, remedy: str) -> None:
        super().__init__(f"{SETTING}={mode}: {problem}: {remedy}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which addresses the host shall ask, in order (none: as if the client were not there), and its search domain."""

    sentinels: tuple[IPAddress, ...] = ()
    search_domain: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The servers that the host uses without us, and whether what was applied last is still in place."""

    servers: tuple[SystemServer, ...]
    is_in_place: bool = True


class SystemDns(Protocol):
    """One mode. Nothing here is called twice at a time."""

    async def start(self) -> None:
        """Undo what a run that was killed left behind.

        Raises:
            DnsControlError: the mode cannot work on this host.
        """

    async def look(self) -> Found:
        """What the host uses now; cheap enough to be asked every few seconds.

        Raises:
            DnsControlError: it cannot be found out.
        """

    async def apply(self, wanted: Wanted) -> None:
        """Have the host ask us.

        Raises:
            DnsControlError: it does not work.
        """

    async def flush(self) -> None:
        """Have the host forget what it remembers of names."""

    async def close(self) -> None:
        """Put everything back.

        Raises:
            DnsControlError: it could not be.
        """


def listed(addresses: Iterable[IPAddress]) -> str:
    """For a log line."""
    return ", ".join(map(str, addresses)) or "none"
