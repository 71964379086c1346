"""What a host says about names: read as it is, read again when it changes, and bounded."""

import logging
import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from connectivity.endpoint import Endpoint
from gateway import system_names
from gateway.system_names import SystemNames


@pytest.fixture(name="names")
def _names(tmp_path: Path) -> SystemNames:
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    return SystemNames(tmp_path / "resolv.conf", tmp_path / "hosts")


def servers(*addresses: str) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(ip_address(address), 53) for address in addresses)


def write(path: Path, text: str) -> None:
    """Another file under the same name, as editors and DHCP clients make one."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(path)


def test_servers_and_options_are_read_and_bad_lines_passed_over(names: SystemNames, tmp_path: Path) -> None:
    write(
        tmp_path / "resolv.conf",
        "# nameserver 192.0.2.1\n; nameserver 192.0.2.2\nsearch a..b example.com\nnameserver\nnameserver here\n"
        "nameserver 192.0.2.53\nnameserver fe80::1%lo\nnameserver 192.0.2.53\n"
        "options rotate timeout:x timeout:3 ndots:2\n",
    )
    names.refresh()
    assert names.nameservers == servers("192.0.2.53", "fe80::1%lo")
    assert (names.rotate, names.attempt_seconds) == (True, 3.0)


@pytest.mark.parametrize(("written", "seconds"), [("0", 1.0), ("30", 5.0), ("1", 1.0)])
def test_a_server_gets_a_sane_time(names: SystemNames, tmp_path: Path, written: str, seconds: float) -> None:
    write(tmp_path / "resolv.conf", f"nameserver 192.0.2.53\noptions timeout:{written}\n")
    names.refresh()
    assert names.attempt_seconds == seconds


def test_so_many_servers_are_used(names: SystemNames, tmp_path: Path) -> None:
    write(tmp_path / "resolv.conf", "".join(f"nameserver 192.0.2.{number}\n" for number in range(1, 20)))
    names.refresh()
    assert names.nameservers == servers(*(f"192.0.2.{number}" for number in range(1, 9)))


def test_the_hosts_file_has_names_of_both_families(names: SystemNames, tmp_path: Path) -> None:
    write(
        tmp_path / "hosts",
        "192.0.2.1 App.example.com. app # the first\n2001:db8::1\tapp\n192.0.2.1 app\nnonsense app\n192.0.2.2\n#\n",
    )
    names.refresh()
    assert names.host("app") == (ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    assert names.host("app.example.com") == (ip_address("192.0.2.1"),)
    assert names.host("nonsense") == names.host("localhost") == ()


def test_a_change_is_noticed_and_no_change_is_none(names: SystemNames, tmp_path: Path) -> None:
    first = names.refresh()
    assert names.refresh() == first
    write(tmp_path / "resolv.conf", "nameserver 192.0.2.99\n")
    assert names.refresh() > first
    assert names.nameservers == servers("192.0.2.99")


def test_a_change_in_place_is_noticed(names: SystemNames, tmp_path: Path) -> None:
    """A container's resolv.conf is a bind mount: it stays the same file."""
    first = names.refresh()
    path = tmp_path / "resolv.conf"
    before = path.stat()
    path.write_text("nameserver 192.0.2.54\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # a clock that is coarser than this test
    assert names.refresh() > first
    assert names.nameservers == servers("192.0.2.54")


def test_a_file_that_goes_away_says_nothing_and_comes_back(
    names: SystemNames, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names.refresh()
    (tmp_path / "resolv.conf").unlink()
    with caplog.at_level(logging.WARNING, "gateway"):
        names.refresh()
        names.refresh()
    assert names.nameservers == ()
    assert [record.getMessage() for record in caplog.records] == [
        "Cannot read a file about names",
        "No name server is configured",
    ]
    write(tmp_path / "resolv.conf", "nameserver 192.0.2.53\n")
    names.refresh()
    assert names.nameservers == servers("192.0.2.53")


def test_a_file_without_end_is_cut_and_that_is_told(
    names: SystemNames, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_names, "MOST_FILE_BYTES", 64)
    write(tmp_path / "hosts", "192.0.2.1 first\n" + "#" * 64 + "\n192.0.2.1 last\n")
    with caplog.at_level(logging.WARNING, "gateway"):
        names.refresh()
    assert names.host("first")
    assert not names.host("last")
    assert [record.getMessage() for record in caplog.records] == [
        "A file about names is too long: the rest is not used"
    ]


def test_no_bytes_at_all_break_it(names: SystemNames, tmp_path: Path) -> None:
    for name in ("resolv.conf", "hosts"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 4)
    names.refresh()
    assert names.nameservers == ()
