"""What the gateway changes on its host, in which order, and takes back; against sysctls in a folder and a fake nft."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connectivity.io import nftables
from connectivity.io.nftables import NftError
from gateway import firewall, masquerade
from gateway.firewall import Finding
from gateway.forward import Forward
from gateway.masquerade import FORWARDING, Masquerade

DEVICE = "tun0"


class Host:
    """The sysctls, and what nft was told, with the state of forwarding (IPv4, IPv6) at that moment."""

    def __init__(self, root: Path, ipv4: str, ipv6: str) -> None:
        self.root = root
        self.told: list[tuple[str, str, str]] = []
        self.left: list[str] = []  # the chains of a table that a former run left
        self.refusal: str | None = None
        for name, value in (
            *zip(FORWARDING.values(), (ipv4, ipv6), strict=True),
            (f"net/ipv4/conf/{DEVICE}/forwarding", "1"),
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(value)

    def forwarding(self) -> tuple[str, str]:
        ipv4, ipv6 = ((self.root / name).read_text() for name in FORWARDING.values())
        return ipv4, ipv6

    def run(self, script: str) -> None:
        if self.refusal is not None:
            raise NftError(self.refusal)
        self.told.append((script, *self.forwarding()))

    def listing(self, *_words: str) -> list[dict[str, Any]]:
        if not self.left:
            raise NftError("No such file or directory")
        return [{"chain": {"name": name}} for name in self.left]


@pytest.fixture
def make_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Host]:
    def make(ipv4: str = "0", ipv6: str = "0") -> Host:
        host = Host(tmp_path, ipv4, ipv6)
        monkeypatch.setattr(masquerade, "_SYSCTL", tmp_path)
        monkeypatch.setattr(masquerade, "_CONNECTIONS", tmp_path / "connections")
        monkeypatch.setattr(nftables, "run", host.run)
        monkeypatch.setattr(nftables, "listing", host.listing)
        monkeypatch.setattr(firewall, "examine", lambda _device: [])
        return host

    return make


def confined(script: str) -> list[str]:
    return [family for family in FORWARDING if f"meta nfproto {family} counter drop" in script]


def test_the_table_is_there_before_forwarding_is_on_and_goes_after_it_is_off(make_host: Callable[..., Host]) -> None:
    host = make_host()
    ours = Masquerade(DEVICE)
    ours.apply()
    ours.apply()
    assert host.forwarding() == ("1", "1")
    ours.remove()
    ours.remove()
    (applied, *before), (removed, *after) = host.told
    assert (before, after) == (["0", "0"], ["0", "0"])
    assert confined(applied) == ["ipv4", "ipv6"]
    assert removed == "delete table inet postern_gateway\n"


@pytest.mark.parametrize(
    ("forward", "families", "level"),
    [
        (None, ["ipv6"], logging.WARNING),
        (Forward.TUNNEL, ["ipv4", "ipv6"], None),
        (Forward.HOST, [], logging.INFO),
    ],
)
def test_what_the_host_forwards_besides(
    make_host: Callable[..., Host],
    caplog: pytest.LogCaptureFixture,
    forward: Forward | None,
    families: list[str],
    level: int | None,
) -> None:
    caplog.set_level(logging.INFO)
    host = make_host(ipv4="1")
    ours = Masquerade(DEVICE, forward)
    ours.apply()
    assert confined(host.told[0][0]) == families
    said = [record.levelno for record in caplog.records if "whoever routes" in record.message]
    assert said == ([] if level is None else [level])
    ours.remove()
    assert host.forwarding() == ("1", "0")  # what was on before stays on


def test_a_successor_of_a_killed_run_knows_what_that_had_switched_on(make_host: Callable[..., Host]) -> None:
    host = make_host(ipv4="1", ipv6="1")
    host.left = ["input", "switched_on_ipv4"]
    ours = Masquerade(DEVICE)
    ours.apply()
    assert confined(host.told[0][0]) == ["ipv4"]
    ours.remove()
    assert host.forwarding() == ("0", "1")


def test_without_its_table_nothing_is_switched_on(
    make_host: Callable[..., Host], caplog: pytest.LogCaptureFixture
) -> None:
    host = make_host()
    host.refusal = "nft: Operation not permitted"
    ours = Masquerade(DEVICE)
    ours.apply()
    assert host.forwarding() == ("0", "0")
    assert "Cannot masquerade clients by nftables" in caplog.messages
    ours.remove()


def test_a_sysctl_that_does_not_take_is_told(
    make_host: Callable[..., Host], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    make_host()
    swallowing = tmp_path / FORWARDING["ipv6"]
    swallowing.unlink()
    swallowing.symlink_to("/dev/null")
    Masquerade(DEVICE).apply()
    (record,) = [record for record in caplog.records if record.message == "Cannot set forwarding"]
    assert record.__dict__["fields"] == {"sysctl": "net.ipv6.conf.all.forwarding", "wanted": "1", "found": ""}


def test_the_device_forwards_too_where_the_host_makes_devices_that_do_not(make_host: Callable[..., Host]) -> None:
    host = make_host(ipv4="1", ipv6="1")
    born = host.root / f"net/ipv4/conf/{DEVICE}/forwarding"
    born.write_text("0")
    Masquerade(DEVICE).apply()
    assert born.read_text() == "1"


@pytest.mark.parametrize(
    ("state", "source", "stays"),
    [
        ("ESTABLISHED", "100.64.0.9", True),
        ("ESTABLISHED", "fd00:2021:1111:0:0:0:0:9", True),
        ("TIME_WAIT", "100.64.0.9", False),
        ("ESTABLISHED", "10.0.0.9", False),
    ],
)
def test_the_masquerade_stays_for_running_connections(
    make_host: Callable[..., Host], state: str, source: str, stays: bool
) -> None:
    host = make_host()
    line = f"ipv4 2 tcp 6 431997 {state} src={source} dst=10.0.0.1 sport=1 dport=80 [ASSURED] mark=0\n"
    (host.root / "connections").write_text(line)
    ours = Masquerade(DEVICE)
    ours.apply()
    ours.remove()
    assert ("masquerade" in host.told[-1][0]) is stays
    assert "chain forward" not in host.told[-1][0]
    assert host.forwarding() == ("0", "0")


def test_tables_that_drop_are_named(
    make_host: Callable[..., Host], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_host()
    finding = Finding("ip filter", "FORWARD", "forward", "iptables -I FORWARD -i tun0 -j ACCEPT")
    monkeypatch.setattr(firewall, "examine", lambda _device: [finding])
    Masquerade(DEVICE).apply()
    (record,) = [record for record in caplog.records if "Another table" in record.message]
    assert (record.levelno, record.__dict__["fields"]) == (logging.WARNING, finding.fields())
