"""What this host says about names: the name servers of ``/etc/resolv.conf`` and the entries of ``/etc/hosts``.

Both files are looked at before each use and read again when they changed, as DHCP clients, VPNs and people change them.
Lines that make no sense are passed over, as the C library does it. The search list is not used: what a gateway looks up
is a whole name. The files are bounded, because everything in them is kept.
"""

import logging
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final, TypeAlias

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import chain

RESOLV_CONF: Final = Path("/etc/resolv.conf")
HOSTS: Final = Path("/etc/hosts")
DNS_PORT: Final = 53
MOST_NAMESERVERS: Final = 8  # the C library uses three
MOST_FILE_BYTES: Final = 1 << 20  # some blocking lists are longer; what is behind that is not used, and that is said
ATTEMPT_SECONDS: Final = 2.0
LONGEST_ATTEMPT_SECONDS: Final = 5.0

log = logging.getLogger("gateway")

_State: TypeAlias = tuple[int, int, int, int] | None  # of a file; None: it cannot be looked at


class SystemNames:
    """The two files as they are now, after each ``refresh``.

    Attributes:
        generation: grows when something changed.
        nameservers: in the order of the file.
        rotate: whether the file wants them used in turn.
        attempt_seconds: what one of them is given to answer.
    """

    def __init__(self, resolv_conf: Path = RESOLV_CONF, hosts: Path = HOSTS) -> None:
        self.generation = 0
        self.nameservers: tuple[Endpoint, ...] = ()
        self.rotate = False
        self.attempt_seconds = ATTEMPT_SECONDS
        self._hosts: Mapping[str, tuple[IPAddress, ...]] = {}
        self._files: list[_File] = [_File(resolv_conf, self._take_resolv_conf), _File(hosts, self._take_hosts)]

    def refresh(self) -> int:
        """Read again what changed; returns the generation."""
        for each in self._files:
            if each.has_changed():
                self.generation += 1
                each.read()
        return self.generation

    def host(self, name: str) -> tuple[IPAddress, ...]:
        """What the hosts file has under a name, which is in lower case and has no final dot."""
        return self._hosts.get(name, ())

    def _take_resolv_conf(self, text: str) -> None:
        servers: dict[Endpoint, None] = {}
        self.rotate, self.attempt_seconds = False, ATTEMPT_SECONDS
        for line in text.splitlines():
            match line.split():
                case ["nameserver", written, *_]:
                    address = _address(written)
                    if address is None:
                        log.warning("A name server has no sound address", extra={"fields": {"file": "resolv.conf"}})
                    else:
                        servers[Endpoint(address, DNS_PORT)] = None
                case ["options", *options]:
                    self._take_options(options)
                case _:
                    pass  # a comment, or nothing that we use
        self.nameservers = tuple(servers)[:MOST_NAMESERVERS]
        if not servers:
            log.warning("No name server is configured", extra={"fields": {"file": "resolv.conf"}})

    def _take_options(self, options: list[str]) -> None:
        for option in options:
            name, _, value = option.partition(":")
            if name == "rotate":
                self.rotate = True
            elif name == "timeout" and value.isascii() and value.isdecimal():
                self.attempt_seconds = min(max(float(value), 1.0), LONGEST_ATTEMPT_SECONDS)

    def _take_hosts(self, text: str) -> None:
        hosts: dict[str, list[IPAddress]] = {}
        for line in text.splitlines():
            words = line.partition("#")[0].split()
            address = _address(words[0]) if words else None
            if address is None:
                continue
            for name in words[1:]:
                known = hosts.setdefault(name.rstrip(".").lower(), [])
                if address not in known:
                    known.append(address)
        self._hosts = {name: tuple(addresses) for name, addresses in hosts.items()}


class _File:
    """A small file, and whether it is still the one that was read."""

    def __init__(self, path: Path, take: Callable[[str], None]) -> None:
        self._path = path
        self._take = take
        self._seen: _State = (0, 0, 0, 0)

    def has_changed(self) -> bool:
        try:
            found = self._path.stat()
            state: _State = found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
        except OSError:
            state = None
        changed, self._seen = state != self._seen, state
        return changed

    def read(self) -> None:
        """Hand over what the file says; one that cannot be read says nothing."""
        content = b""
        try:
            with self._path.open("rb") as file:
                content = file.read(MOST_FILE_BYTES + 1)
        except OSError as error:
            log.warning("Cannot read a file about names", extra={"fields": {"error": chain(error)}})
        if len(content) > MOST_FILE_BYTES:
            fields = {"file": self._path.name, "bytes": MOST_FILE_BYTES}
            log.warning("A file about names is too long: the rest is not used", extra={"fields": fields})
        self._take(content[:MOST_FILE_BYTES].decode("utf-8", "replace"))


def _address(text: str) -> IPAddress | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
