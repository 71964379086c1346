"""An absent address family is absent by whatever errno, and nothing else is taken for it."""

import errno
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any, Self

import pytest
from pyroute2 import NetlinkError

from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError, chain
from connectivity.io import families, host
from relay.configuration import Configuration
from relay.driver.addresses import without_absent_families

UNSPEAKING = (errno.EAFNOSUPPORT, errno.EPFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP)
AMBIGUOUS = (errno.EACCES, errno.EPERM, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.ENOENT)
BOTH = Configuration(
    public={4: IPv4Address("198.51.100.1"), 6: IPv6Address("2001:db8::1")},
    listen=(Endpoint.parse("0.0.0.0:3478"), Endpoint.parse("[::]:3478")),
)


def make_proc(proc: Path, *, addresses: str = "", **switches: str) -> Path:
    (proc / "sys/net/ipv4").mkdir(parents=True)
    for name, value in switches.items():
        (proc / "sys/net/ipv6/conf" / name).mkdir(parents=True)
        (proc / "sys/net/ipv6/conf" / name / "disable_ipv6").write_text(value + "\n")
    (proc / "net").mkdir()
    (proc / "net/if_inet6").write_text(addresses)
    return proc


@pytest.mark.parametrize("number", [*UNSPEAKING, *AMBIGUOUS])
def test_every_errno_of_a_host_without_ipv6_says_so(tmp_path: Path, number: int) -> None:
    proc = make_proc(tmp_path, all="1", default="1", tun="1", lo="1")
    error = OSError(number, "no")
    assert families.is_absent(error, 6, proc=proc)
    assert families.is_absent(error, 6, device="tun", proc=proc)
    assert families.is_absent(error, 4, proc=proc) == (number in UNSPEAKING)


@pytest.mark.parametrize("number", AMBIGUOUS)
def test_where_ipv6_is_on_the_same_errno_says_something_else(tmp_path: Path, number: int) -> None:
    lines = "00000000000000000000000000000001 01 80 10 80       lo\nfe800000000000000000000000000001 02 40 20 80 eth0\n"
    proc = make_proc(tmp_path, addresses=lines, all="1", default="1", tun="0")  # and eth0 has it nevertheless
    error = OSError(number, "no")
    assert not families.is_absent(error, 6, proc=proc)
    assert not families.is_absent(error, 6, device="tun", proc=proc)
    assert not families.is_absent(error, 6, proc=tmp_path / "no proc")
    assert families.absence(6, proc=proc) is None


def test_other_errors_are_never_an_absence(tmp_path: Path) -> None:
    proc = make_proc(tmp_path, all="1", default="1")
    for number in (errno.EADDRINUSE, errno.EMFILE, errno.EINVAL, errno.EBUSY):
        assert not families.is_absent(OSError(number, "no"), 6, proc=proc)


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        ({}, "the kernel has no IPv6"),
        ({"all": "1", "default": "1"}, "IPv6 is switched off (sysctl net.ipv6.conf.all.disable_ipv6)"),
        ({"all": "0", "default": "1"}, "IPv6 is switched off (sysctl net.ipv6.conf.default.disable_ipv6)"),
        ({"all": "0", "default": "0"}, None),
    ],
)
def test_why_is_said_in_words(tmp_path: Path, switches: dict[str, str], words: str | None) -> None:
    assert families.absence(6, proc=make_proc(tmp_path, **switches)) == words
    assert families.absence(4, proc=tmp_path) is None


class Kernel:
    """rtnetlink of a host that has IPv6 switched off, or that permits nothing."""

    def __init__(self, refuses: Callable[[str, dict[str, Any]], int]) -> None:
        self._refuses = refuses
        self.done: list[tuple[str, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def link_lookup(self, **_: object) -> list[int]:
        return [7]

    def get_routes(self, **_: object) -> list[Any]:
        return []

    def get_addr(self, **_: object) -> list[Any]:
        return []

    def __getattr__(self, name: str) -> Callable[..., None]:
        def act(_command: str, **arguments: Any) -> None:
            if number := self._refuses(name, arguments):
                raise NetlinkError(number, "refused")
            self.done.append((name, arguments.get("family", 0)))

        return act


def without_ipv6(name: str, arguments: dict[str, Any]) -> int:
    return errno.EACCES if name in {"addr", "route"} and arguments["family"] == families.FAMILIES[6] else 0


def test_the_device_goes_on_with_the_family_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(without_ipv6)
    monkeypatch.setattr(host, "IPRoute", lambda: kernel)
    monkeypatch.setattr(families, "switched_off", lambda version, **_: version == 6)
    host.configure("tun", IPv4Address("100.64.0.1"), IPv6Address("fd00::1"))
    host.set_routes("tun", [ip_network("fd00::/8"), ip_network("10.0.0.0/8")])
    v4 = families.FAMILIES[4]
    assert [step for step in kernel.done if step[0] != "link"] == [("addr", v4), ("rule", v4), ("route", v4)]


def test_a_missing_privilege_is_not_taken_for_an_absent_family(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(lambda name, _: errno.EPERM if name != "link" else 0)
    monkeypatch.setattr(host, "IPRoute", lambda: kernel)
    monkeypatch.setattr(families, "switched_off", lambda *_, **__: False)
    with pytest.raises(PermissionError) as refused:
        host.set_routes("tun", [ip_network("fd00::/8")])
    assert "CAP_NET_ADMIN" in chain(refused.value)


def test_a_relay_leaves_an_absent_family_out_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "absence", lambda version: "IPv6 is off" if version == 6 else None)
    left = without_absent_families(BOTH)
    assert (set(left.public), left.listen) == ({4}, BOTH.listen[:1])
    monkeypatch.setattr(families, "absence", lambda version: f"no IPv{version}")
    with pytest.raises(FatalError, match="no address family to serve: no IPv4; no IPv6"):
        without_absent_families(BOTH)
    monkeypatch.setattr(families, "absence", lambda _: None)
    assert without_absent_families(BOTH) is BOTH
