"""``systemd-resolved``: the TUN device's link gets the sentinels, by ``resolvectl``, and all names lead there.

What resolved knows of a link goes with the link, so there is nothing to put back. It writes the servers of all links to
a file of its own; only when that changes is ``resolvectl`` asked, and once a minute in any case.
"""

import asyncio
import logging
import os
import shutil
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from client.dns import system_servers
from client.system_dns.control import SYSTEMD_RESOLVED, DnsControlError, Found, Wanted
from client.system_dns.etc_resolv_conf import ResolvConf, revert_quietly
from connectivity.errors import chain

COMMAND: Final = "resolvectl"
_COMMAND_SECONDS: Final = 5.0  # it speaks to a service of this host; D-Bus starts that if need be
_UPLINKS: Final = Path("/run/systemd/resolve/resolv.conf")
_LOOKS_BETWEEN: Final = 12  # polls that only look at the file, one in five seconds
_INHERITED: Final = ("PATH", "DBUS_SYSTEM_BUS_ADDRESS")
_REMEDY: Final = (
    "choose etc-resolv-conf, where /etc/resolv.conf is a regular file, or disabled, or start systemd-resolved "
    "(Debian package systemd-resolved)"
)
# resolved itself, should somebody have named it as its own server: it would ask us in turn.
_ITSELF: Final = frozenset({ip_address("127.0.0.53"), ip_address("127.0.0.54")})

_log = logging.getLogger("client.dns")


class ResolvedDns:
    """The mode ``systemd-resolved``."""

    def __init__(self, device: str, file: ResolvConf | None = None, uplinks: Path = _UPLINKS) -> None:
        self._device = device
        self._file = file or ResolvConf()
        self._uplinks = uplinks
        self._stamp: tuple[int, int] | None = None
        self._polls = 0
        self._found: Found | None = None
        self._applied = Wanted()

    async def start(self) -> None:
        """Put back what a run in another mode left, and see that resolved answers."""
        await asyncio.to_thread(revert_quietly, self._file)
        await self.check()

    async def check(self) -> None:
        """Raise DnsControlError if resolved does not answer."""
        if shutil.which(COMMAND) is None:
            raise DnsControlError(SYSTEMD_RESOLVED, f"the command {COMMAND} is missing", _REMEDY)
        await self.look()

    async def look(self) -> Found:
        """The servers of all links and the global ones, but those of our own link."""
        stamp = self._stamped()
        self._polls += 1
        if self._found is not None and stamp is not None and stamp == self._stamp and self._polls < _LOOKS_BETWEEN:
            return self._found
        self._polls = 0
        scopes = system_servers.in_resolvectl(await self._resolvectl("dns"))
        own = scopes.pop(self._device, [])
        words = [word for scope in scopes.values() for word in scope]
        servers = system_servers.usable(
            server for server in map(system_servers.parse, words) if server is not None and server.ip not in _ITSELF
        )
        self._stamp = stamp
        self._found = Found(servers, own == [str(address) for address in self._applied.sentinels])
        return self._found

    async def apply(self, wanted: Wanted) -> None:
        """All names are asked of us, whatever other links know; resolved keeps their servers for when we are gone."""
        self._applied = wanted
        self._found = None
        if not wanted.sentinels:
            await self._resolvectl("revert", self._device)
            return
        try:
            # The sentinel is this very host; where the rest of DNS is to be asked over TLS, it would not be answered.
            await self._resolvectl("dnsovertls", self._device, "no")
        except DnsControlError as error:
            _log.debug("The link stays with the host's choice of TLS", extra={"fields": {"error": chain(error)}})
        domains = ["~."] if wanted.search_domain is None else [wanted.search_domain, "~."]
        await self._resolvectl("dns", self._device, *map(str, wanted.sentinels))
        await self._resolvectl("domain", self._device, *domains)
        await self._resolvectl("llmnr", self._device, "true")

    async def flush(self) -> None:
        """Names of resources that came or went are to be asked anew."""
        await self._resolvectl("flush-caches")

    async def close(self) -> None:
        """All goes with the link."""

    def _stamped(self) -> tuple[int, int] | None:
        try:
            status = self._uplinks.stat()
        except OSError:
            return None  # nothing to go by: resolvectl is asked each time
        return status.st_mtime_ns, status.st_ino

    async def _resolvectl(self, *arguments: str) -> str:
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        try:
            process = await asyncio.create_subprocess_exec(
                COMMAND,
                "--no-pager",
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**environment, "LC_ALL": "C"},
            )
        except OSError as error:
            raise DnsControlError(SYSTEMD_RESOLVED, f"cannot run {COMMAND}", f"{chain(error)}: {_REMEDY}") from None
        try:
            async with asyncio.timeout(_COMMAND_SECONDS):
                output, said = await process.communicate()
        except TimeoutError:
            problem = f"{COMMAND} {arguments[0]} does not end within {_COMMAND_SECONDS:.0f} s"
            raise DnsControlError(
                SYSTEMD_RESOLVED, problem, f"systemctl restart systemd-resolved, or {_REMEDY}"
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            reason = " ".join(said.decode(errors="replace").split())
            raise DnsControlError(SYSTEMD_RESOLVED, f"{COMMAND} {arguments[0]} failed ({reason})", _REMEDY)
        return output.decode(errors="replace")
