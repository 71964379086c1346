"""``etc-resolv-conf`` and ``disabled``: the host's DNS by ``/etc/resolv.conf``, written in place or only read.

In place, because in a container the file is a mount of its own that nothing can be renamed over. One write changes it
from the host's text to ours or back, and what ours carries along (``client.dns.resolv_conf``) is enough to undo it,
wherever the process ends. The backup beside it, under the name that Firezone's client uses, is for a machine that loses
its power within that write, and for who reads it; where ``/etc`` is read-only there is none.
"""

import asyncio
import errno
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from client.dns import resolv_conf
from client.system_dns.control import ETC_RESOLV_CONF, DnsControlError, Found, Wanted
from connectivity.errors import chain

RESOLV_CONF: Final = Path("/etc/resolv.conf")
_BACKUP_SUFFIX: Final = ".before-firezone"
_MAX_BYTES: Final = 65536  # what no resolver reads to its end
# Whoever writes the file without replacing it may not be done yet.
_SETTLED_SECONDS: Final = 1.0
_NOT_OURS_TO_WRITE: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})

_log = logging.getLogger("client.dns")


class ResolvConf:
    """The file and its backup. Files are read and written where this is called."""

    def __init__(self, path: Path = RESOLV_CONF) -> None:
        self.path = path
        self.backup = path.with_name(path.name + _BACKUP_SUFFIX)
        self._told_of_backup = False

    def check(self) -> None:
        """Raise DnsControlError if it cannot be written."""
        with self._opened():
            pass

    def text_without_us(self) -> str:
        """What the host's own text is, whoever's stands there now.

        Raises:
            OSError: there is no such file, or it cannot be read.
        """
        content = _read(self.path)
        text = _decoded(content)
        if resolv_conf.is_ours(text):
            return self._before(text) or ""
        return _decoded(resolv_conf.unpadded(content))

    def is_settled(self) -> bool:
        """Whether nobody has written it just now."""
        return not 0 <= time.time() - self.path.stat().st_mtime < _SETTLED_SECONDS

    def holds(self, wanted: Wanted) -> bool:
        """Whether the file is ours, with these servers; without any, whether it is not."""
        text = _decoded(_read(self.path))
        if not wanted.sentinels:
            return not resolv_conf.is_ours(text)
        before = self._before(text) if resolv_conf.is_ours(text) else None
        return before is not None and text == self._ours(before, wanted)

    def write(self, wanted: Wanted) -> None:
        """Have the file name these servers.

        Raises:
            DnsControlError: it is nothing that can be written in place, or cannot be put back later.
        """
        with self._opened() as descriptor:
            content = _read_all(descriptor)
            restored = self._restored(content)
            before = _decoded(content if restored is None else restored)
            self._back_up(before)
            _overwrite(descriptor, _encoded(self._ours(before, wanted)), len(content))

    def revert(self) -> bool:
        """Put the host's text back; whether there was anything to do.

        Raises:
            DnsControlError: ours stands there and cannot be undone.
        """
        try:
            if self._restored(_read(self.path)) is None:
                return False
        except OSError:
            return False  # no file of ours
        with self._opened() as descriptor:
            content = _read_all(descriptor)
            before = self._restored(content)
            if before is not None:
                _overwrite(descriptor, before, len(content))
        self._drop_backup()
        return True

    def _restored(self, content: bytes) -> bytes | None:
        """What is to stand there instead; None if this is the host's own text."""
        text = _decoded(content)
        if not resolv_conf.is_ours(text):
            unpadded = resolv_conf.unpadded(content)
            return None if unpadded == content else unpadded
        before = self._before(text)
        if before is None:
            raise self._lost()
        return _encoded(before)

    def _ours(self, before: str, wanted: Wanted) -> str:
        return resolv_conf.ours(before, wanted.sentinels, wanted.search_domain, str(self.backup))

    def _before(self, text: str) -> str | None:
        """From the file itself; from the backup if Firezone's client wrote it, or if it is only half there."""
        carried = resolv_conf.before(text)
        if carried is not None:
            return carried
        try:
            kept = _decoded(_read(self.backup))
        except OSError:
            return None
        return None if resolv_conf.is_ours(kept) else kept

    def _back_up(self, before: str) -> None:
        """Write it beside the file, all or nothing, and on the disk before the file itself is touched."""
        content = _encoded(before)
        try:
            if self.backup.is_file() and not self.backup.is_symlink() and _read(self.backup) == content:
                return
            draft = self.backup.with_name(f".{self.backup.name}")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                _write_all(descriptor, content)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(draft, self.backup)
        except OSError as error:
            if error.errno not in _NOT_OURS_TO_WRITE:
                raise
            if not self._told_of_backup:
                self._told_of_backup = True
                fields = {"path": self.backup, "error": chain(error)}
                _log.info("No backup beside resolv.conf, which carries its own", extra={"fields": fields})

    def _drop_backup(self) -> None:
        try:
            self.backup.unlink()
        except OSError as error:
            if not isinstance(error, FileNotFoundError) and error.errno not in _NOT_OURS_TO_WRITE:
                _log.debug("The backup stays", extra={"fields": {"error": chain(error)}})

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The file, to be written in place; what the system says about it in words, with what to do."""
        try:
            if self.path.is_symlink():
                raise self._symbolic()
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(self.path, flags)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise self._error("is no regular file", "make it one, or choose disabled")
                yield descriptor
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            raise self._error("is not there", "make it, or choose systemd-resolved or disabled") from None
        except OSError as error:
            remedy = "make it writable for this user, or choose systemd-resolved or disabled"
            raise self._error(f"cannot be written ({os.strerror(error.errno or 0)})", remedy) from None

    def _symbolic(self) -> DnsControlError:
        target = os.readlink(self.path)
        if "systemd/resolve" in target:
            return self._error(f"is a symbolic link to {target}", "choose systemd-resolved, which manages it")
        return self._error(
            f"is a symbolic link to {target}, which another program manages",
            "choose systemd-resolved where it runs, or disabled, or put a regular file in its place",
        )

    def _lost(self) -> DnsControlError:
        return self._error(
            f"was left by a run that did not end in order, and neither it nor {self.backup} tells what it was before",
            "write it anew, with the DNS servers of this network",
        )

    def _error(self, problem: str, remedy: str) -> DnsControlError:
        return DnsControlError(ETC_RESOLV_CONF, f"{self.path} {problem}", remedy)


class FileDns:
    """The mode ``etc-resolv-conf``."""

    def __init__(self, file: ResolvConf | None = None) -> None:
        self._file = file or ResolvConf()
        self._applied = Wanted()
        self._found: Found | None = None

    async def start(self) -> None:
        """Put back what a run that was killed left, and see that the file can be written."""
        await asyncio.to_thread(start, self._file)

    async def look(self) -> Found:
        """Whoever writes the file while we hold it (DHCP, an editor) has the last word on the servers."""
        return await asyncio.to_thread(self._look)

    async def apply(self, wanted: Wanted) -> None:
        """Write, or put back."""
        self._applied = wanted
        await asyncio.to_thread(self._file.write, wanted) if wanted.sentinels else await self.close()

    async def flush(self) -> None:
        """Programs that read this file remember nothing."""

    async def close(self) -> None:
        """Put the host's text back."""
        await asyncio.to_thread(self._file.revert)

    def _look(self) -> Found:
        try:
            holds = self._file.holds(self._applied)
            if holds or self._found is None or self._file.is_settled():
                self._found = Found(resolv_conf.nameservers(self._file.text_without_us()), holds)
            return self._found
        except OSError as error:
            raise DnsControlError(ETC_RESOLV_CONF, f"cannot read {self._file.path}", chain(error)) from None


class UntouchedDns:
    """The mode ``disabled``: only what a run in another mode left is undone, where that works."""

    def __init__(self, file: ResolvConf | None = None) -> None:
        self._file = file or ResolvConf()

    async def start(self) -> None:
        """Put back what a run that was killed left."""
        await asyncio.to_thread(revert_quietly, self._file)

    async def look(self) -> Found:
        """What the file says; a host may go without."""
        try:
            return Found(resolv_conf.nameservers(await asyncio.to_thread(self._file.text_without_us)))
        except OSError:
            return Found(())

    async def apply(self, wanted: Wanted) -> None:
        """Nothing is touched."""

    async def flush(self) -> None:
        """Nothing is touched."""

    async def close(self) -> None:
        """Nothing was touched."""


def revert_quietly(file: ResolvConf) -> None:
    """Undo what a run in the mode ``etc-resolv-conf`` left, before a run in another one."""
    try:
        if file.revert():
            _log.info("Put resolv.conf back, which a run before had left")
    except DnsControlError as error:
        _log.warning("Cannot put resolv.conf back", extra={"fields": {"error": chain(error)}})


def start(file: ResolvConf) -> None:
    """See that the file can be written, and undo what a run that was killed left.

    Raises:
        DnsControlError: it cannot, or it is not known how.
    """
    file.check()
    if file.revert():
        _log.info("Put resolv.conf back, which a run before had left")


def _overwrite(descriptor: int, content: bytes, length: int) -> None:
    """Replace ``length`` bytes by one write; a shorter text is padded by a comment until the file is cut."""
    _write_all(descriptor, resolv_conf.padded(content, length) if len(content) < length else content)
    os.ftruncate(descriptor, len(content))
    os.fsync(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    written = 0
    while written < len(content):
        written += os.pwrite(descriptor, content[written:], written)


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return _read_all(descriptor)
    finally:
        os.close(descriptor)


def _read_all(descriptor: int) -> bytes:
    """Raises OSError for what is too long to be such a file."""
    content = os.pread(descriptor, _MAX_BYTES + 1, 0)
    if len(content) > _MAX_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content


def _decoded(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
