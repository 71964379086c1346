"""A step that was not permitted says which capability it takes."""

import errno
import subprocess
from pathlib import Path

import pytest

import gateway.masquerade
from connectivity.errors import FatalError, chain
from connectivity.io import buffers, privileges, tun_device
from connectivity.io.privileges import CAPABILITIES, lacks, low_port, privileged
from connectivity.io.tun import Tun
from connectivity.io.tunnel_sockets import bind_sockets
from connectivity.io.udp import UdpSocket


@pytest.fixture(autouse=True)
def _without_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "lacks", lambda _: True)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
def test_the_step_and_what_it_takes_are_named(number: int) -> None:
    with pytest.raises(PermissionError) as refused, privileged("doing it", "CAP_NET_RAW"):
        raise OSError(number, "no")
    assert chain(refused.value) == "doing it takes CAP_NET_RAW, which this process does not have: no"
    assert refused.value.errno == number


def test_what_else_goes_wrong_stays_as_it_is() -> None:
    error = OSError(errno.EBUSY, "busy")
    with pytest.raises(OSError, match="busy") as raised, privileged("doing it", "CAP_NET_RAW"):
        raise error
    assert raised.value is error


def test_who_has_the_capability_is_told_of_other_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "lacks", lambda _: False)
    expected = pytest.raises(PermissionError, match="forbidden although this process has CAP_NET_RAW")
    with expected, privileged("doing it", "CAP_NET_RAW"):
        raise OSError(errno.EPERM, "no")


def test_capabilities_are_read_from_the_process(tmp_path: Path) -> None:
    status = tmp_path / "status"
    for name, bit in CAPABILITIES.items():
        status.write_text(f"Name:\tx\nCapPrm:\t{0:016x}\nCapEff:\t{1 << bit:016x}\n")
        assert [other for other in CAPABILITIES if not lacks(other, status)] == [name]
    assert not lacks("CAP_NET_ADMIN", tmp_path / "none")


def test_only_low_ports_take_a_privilege() -> None:
    with pytest.raises(PermissionError, match="a port below 1024 takes CAP_NET_BIND_SERVICE"), low_port(53):
        raise OSError(errno.EACCES, "Permission denied")
    with pytest.raises(PermissionError, match=r"^.Errno 13. Permission denied$"), low_port(1024):
        raise OSError(errno.EACCES, "Permission denied")


def test_sockets_without_their_mark_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> UdpSocket:
        with privileged("marking the UDP socket (SO_MARK)", "CAP_NET_ADMIN"):
            raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(UdpSocket, "bind", refuse)
    with pytest.raises(FatalError) as failed:
        bind_sockets(offloads=frozenset())
    assert chain(failed.value) == (
        "no UDP socket could be bound: marking the UDP socket (SO_MARK) takes CAP_NET_ADMIN, which this process does "
        "not have: Operation not permitted"
    )


def test_a_device_that_may_not_be_made_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    (tmp_path / "tun").touch()
    monkeypatch.setattr(tun_device, "_DEVICE", tmp_path / "tun")
    monkeypatch.setattr("fcntl.ioctl", refuse)
    with pytest.raises(FatalError) as failed:
        Tun.create("tun-x")
    assert chain(failed.value).startswith("cannot create TUN device tun-x: making it takes CAP_NET_ADMIN, which")
    monkeypatch.setattr(tun_device, "_DEVICE", tmp_path / "none")
    monkeypatch.setattr("os.mknod", refuse)
    with pytest.raises(FatalError) as failed:
        Tun.create("tun-x")
    assert "it is missing and cannot be made: making it takes CAP_MKNOD, which" in chain(failed.value)


def test_buffers_below_what_was_asked_for_name_what_they_lack(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(buffers, "lacks", lambda _: True)
    caplog.set_level("INFO")
    UdpSocket.bind("127.0.0.1", 0, send_buffer_bytes=None, receive_buffer_bytes=1 << 30).close()
    fields = caplog.records[-1].__dict__["fields"]
    assert fields.get("lacks") == ("CAP_NET_ADMIN" if fields["receive_buffer"] < 1 << 30 else None)


def test_nftables_that_are_not_permitted_say_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = subprocess.CompletedProcess([], 1, "", "Operation not permitted (you must be root)\nnetlink: Error: cache\n")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: said)
    monkeypatch.setattr(gateway.masquerade, "_enable", lambda _: None)
    gateway.masquerade.Masquerade("tun-x").apply()
    (line,) = caplog.records
    assert "loading its rules takes CAP_NET_ADMIN, which this process does not have: nft" in str(
        line.__dict__["fields"]
    )
