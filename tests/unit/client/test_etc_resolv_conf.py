"""/etc/resolv.conf in a directory of the test's: written in place, and the host's text comes back whatever happens."""

import asyncio
import os
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client.dns import resolv_conf
from client.system_dns import etc_resolv_conf
from client.system_dns.control import DnsControlError, Wanted
from client.system_dns.etc_resolv_conf import FileDns, ResolvConf, UntouchedDns

ONE = Wanted((ip_address("100.100.111.1"),))
TWO = Wanted((ip_address("100.100.111.2"), ip_address("100.100.111.3")), "internal.example")
HOST = "search corp.example\nnameserver 192.0.2.1\n"
THEIRS = "# BEGIN Firezone DNS configuration\n# what Firezone's client wrote\nnameserver 100.100.111.1\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "resolv.conf"
    found.write_text(HOST)
    return found


def backup_of(path: Path) -> Path:
    return path.with_name("resolv.conf.before-firezone")


def test_it_is_written_in_place_with_a_backup_and_comes_back_with_its_inode_and_mode(path: Path) -> None:
    path.chmod(0o640)
    before = path.stat()
    file = ResolvConf(path)
    file.write(ONE)
    assert "nameserver 100.100.111.1" in path.read_text().splitlines()
    assert backup_of(path).read_text() == HOST
    assert file.holds(ONE)
    file.write(TWO)
    assert file.holds(TWO)
    assert not file.holds(ONE)
    assert backup_of(path).read_text() == HOST
    assert file.text_without_us() == HOST
    assert file.revert()
    assert path.read_text() == HOST
    after = path.stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert [entry.name for entry in path.parent.iterdir()] == ["resolv.conf"]
    assert not file.revert()


def test_without_a_place_for_a_backup_the_file_itself_tells(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def read_only(name: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise OSError(30, "Read-only file system")
        return real(name, flags, mode)

    monkeypatch.setattr(os, "open", read_only)
    ResolvConf(path).write(ONE)
    assert [entry.name for entry in path.parent.iterdir()] == ["resolv.conf"]
    assert ResolvConf(path).revert()
    assert path.read_text() == HOST


def test_what_firezones_client_left_is_restored_from_its_backup(path: Path) -> None:
    path.write_text(THEIRS)
    backup_of(path).write_text(HOST)
    asyncio.run(FileDns(ResolvConf(path)).start())
    assert path.read_text() == HOST


def test_what_nobody_can_restore_is_said_and_left_alone(path: Path) -> None:
    path.write_text(THEIRS)
    for attempt in (lambda file: asyncio.run(FileDns(file).start()), lambda file: file.write(ONE)):
        with pytest.raises(DnsControlError, match=r"neither it nor .* tells what it was before: write it anew"):
            attempt(ResolvConf(path))
        assert path.read_text() == THEIRS


def test_what_somebody_wrote_after_a_crash_is_the_hosts(path: Path) -> None:
    ResolvConf(path).write(ONE)  # and the process is gone
    path.write_text("nameserver 192.0.2.77\n")
    file = ResolvConf(path)
    assert not file.revert()
    file.write(TWO)
    assert backup_of(path).read_text() == "nameserver 192.0.2.77\n"
    file.revert()
    assert path.read_text() == "nameserver 192.0.2.77\n"


def test_whoever_writes_it_meanwhile_names_the_servers_and_is_restored_in_the_end(path: Path) -> None:
    def servers() -> list[str]:
        return [str(server.ip) for server in asyncio.run(dns.look()).servers]

    dns = FileDns(ResolvConf(path))
    asyncio.run(dns.start())
    asyncio.run(dns.apply(ONE))
    assert asyncio.run(dns.look()).is_in_place
    path.write_text("")  # a DHCP client, which has opened it and goes on to write
    assert asyncio.run(dns.look()).is_in_place
    assert servers() == ["192.0.2.1"]
    path.write_text("nameserver 192.0.2.99\n")
    os.utime(path, (1, 1))  # and has done so long ago
    assert not asyncio.run(dns.look()).is_in_place
    assert servers() == ["192.0.2.99"]
    asyncio.run(dns.apply(ONE))
    assert asyncio.run(dns.look()).is_in_place
    assert servers() == ["192.0.2.99"]
    asyncio.run(dns.apply(Wanted()))  # there is nobody to ask: the host does without us
    assert asyncio.run(dns.look()).is_in_place
    assert path.read_text() == "nameserver 192.0.2.99\n"
    asyncio.run(dns.apply(TWO))
    asyncio.run(dns.close())
    assert path.read_text() == "nameserver 192.0.2.99\n"


def make_symlink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "is not there: make it, or choose systemd-resolved or disabled"),
        (
            lambda path: make_symlink(path, "../run/systemd/resolve/stub-resolv.conf"),
            "is a symbolic link to ../run/systemd/resolve/stub-resolv.conf: choose systemd-resolved, which manages it",
        ),
        (
            lambda path: make_symlink(path, "/run/resolvconf/resolv.conf"),
            "is a symbolic link to /run/resolvconf/resolv.conf, which another program manages: choose systemd-resolved",
        ),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be written (Is a directory)"),
        (make_fifo, "is no regular file: make it one, or choose disabled"),
    ],
)
def test_what_cannot_be_written_is_one_line_with_what_to_do(
    path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(path)
    with pytest.raises(DnsControlError) as error:
        asyncio.run(FileDns(ResolvConf(path)).start())
    assert str(error.value).startswith(f"FIREZONE_DNS_CONTROL=etc-resolv-conf: {path} {said}")
    asyncio.run(UntouchedDns(ResolvConf(path)).start())  # whoever chose that has no need of it


@pytest.mark.parametrize(("code", "said"), [(30, "Read-only file system"), (13, "Permission denied")])
def test_a_file_that_may_not_be_written_too(path: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str) -> None:
    real = os.open

    def refusing(name: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise OSError(code, os.strerror(code))
        return real(name, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(DnsControlError) as error:
        asyncio.run(FileDns(ResolvConf(path)).start())
    assert f"cannot be written ({said}): make it writable for this user, or choose" in str(error.value)


def test_disabled_reads_only_but_undoes_a_run_that_was_killed_in_the_other_mode(path: Path) -> None:
    ResolvConf(path).write(ONE)
    dns = UntouchedDns(ResolvConf(path))
    asyncio.run(dns.start())
    assert path.read_text() == HOST
    asyncio.run(dns.apply(TWO))
    assert [str(server.ip) for server in asyncio.run(dns.look()).servers] == ["192.0.2.1"]
    asyncio.run(dns.close())
    assert path.read_text() == HOST
    path.unlink()
    assert asyncio.run(dns.look()).servers == ()


# Every way to be killed -----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What nothing in the code handles."""


class Kernel:
    """System calls that change something, of which one does not happen, or happens by half, and none after it."""

    def __init__(self, before_call: int, torn_pages: int | None) -> None:
        self._left = before_call
        self._torn_pages = torn_pages

    def call(self, name: str, *arguments: Any) -> Any:
        if self._left == 0:
            if name == "pwrite" and self._torn_pages is not None:
                descriptor, content, offset = arguments
                os.pwrite(descriptor, content[: self._torn_pages * PAGE], offset)
            raise Killed
        self._left -= 1
        return getattr(os, name)(*arguments)

    def __getattr__(self, name: str) -> Any:
        if name in {"pwrite", "ftruncate", "fsync", "replace", "open"}:
            return lambda *arguments: self.call(name, *arguments)
        return getattr(os, name)


# What a disk writes at once. A process that is killed is cut off at a page of memory, which is more.
PAGE = 512


def run_until_killed(path: Path, work: Callable[[ResolvConf], object], kernel: Kernel) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(etc_resolv_conf, "os", kernel)
        try:
            work(ResolvConf(path))
        except Killed:
            pass


def whole_run(file: ResolvConf) -> None:
    etc_resolv_conf.start(file)
    file.write(ONE)
    file.write(TWO)
    file.write(ONE)
    file.revert()


TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from("\n# "), max_size=40).map(
    lambda text: f"nameserver 192.0.2.1\n{text}"
)


LONG = "nameserver 192.0.2.1\n" + "# long\n" * 300


@example(text=LONG, before_call=18, torn_pages=None, again=[(3, 1)])  # padded, then half written over
@given(
    text=TEXTS | st.just("") | st.just(LONG),
    before_call=st.integers(0, 40),
    torn_pages=st.none() | st.integers(1, 12),
    again=st.lists(st.tuples(st.integers(0, 8), st.none() | st.integers(1, 12)), max_size=2),
)
def test_killed_anywhere_the_next_start_restores_the_hosts_text(
    tmp_path_factory: pytest.TempPathFactory,
    text: str,
    before_call: int,
    torn_pages: int | None,
    again: list[tuple[int, int | None]],
) -> None:
    path = tmp_path_factory.mktemp("etc") / "resolv.conf"
    path.write_bytes(text.encode())
    run_until_killed(path, whole_run, Kernel(before_call, torn_pages))
    for calls, pages in again:  # killed while it restores, too
        run_until_killed(path, etc_resolv_conf.start, Kernel(calls, pages))
    etc_resolv_conf.start(ResolvConf(path))
    assert path.read_bytes() == text.encode()
    assert {entry.name for entry in path.parent.iterdir()} <= {
        "resolv.conf",
        "resolv.conf.before-firezone",
        ".resolv.conf.before-firezone",
    }


@given(text=TEXTS, before_call=st.integers(0, 30), again=st.lists(st.integers(0, 6), max_size=2))
def test_without_a_backup_too(
    tmp_path_factory: pytest.TempPathFactory, text: str, before_call: int, again: list[int]
) -> None:
    path = tmp_path_factory.mktemp("etc") / "resolv.conf"
    path.write_bytes(text.encode())

    class ReadOnlyFolder(Kernel):
        def call(self, name: str, *arguments: Any) -> Any:
            if name == "open" and arguments[1] & os.O_CREAT:
                raise OSError(30, "Read-only file system")
            return super().call(name, *arguments)

    run_until_killed(path, whole_run, ReadOnlyFolder(before_call, None))
    for calls in again:
        run_until_killed(path, etc_resolv_conf.start, ReadOnlyFolder(calls, None))
    etc_resolv_conf.start(ResolvConf(path))
    assert path.read_bytes() == text.encode()
    assert not resolv_conf.is_ours(path.read_text())
