"""systemd-resolved by a ``resolvectl`` on the PATH that writes down what it is asked and says what a test put there."""

import asyncio
import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from client.dns.system_servers import SystemServer
from client.system_dns import resolved
from client.system_dns.control import DnsControlError, Found, Wanted
from client.system_dns.etc_resolv_conf import ResolvConf
from client.system_dns.resolved import ResolvedDns

ONE = Wanted((ip_address("100.100.111.1"), ip_address("fd00:2021:1111:8000:100:100:111:0")))
# As systemd 252 says it, with a link of ours and one that names resolved's own address.
OUTPUT = """\
Global: 127.0.0.53 192.0.2.9#dns.example
Link 2 (eth0): 192.0.2.1 fe80::1%2 100.100.111.7
Link 3 (docker0):
Link 7 (tun-firezone): 100.100.111.1 fd00:2021:1111:8000:100:100:111:0
"""
SCRIPT = """\
#!/bin/sh
shift # --no-pager
echo "$*" >> {folder}/asked
[ ! -e {folder}/fails-$1 ] || {{ echo "Failed to $1:
Unit dbus-org.freedesktop.resolve1.service not found." >&2; exit 1; }}
[ ! -e {folder}/hangs ] || exec sleep 100
[ "$*" != dns ] || cat {folder}/output
"""


class Stage:
    """A host with that command, a resolv.conf and resolved's own file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = folder / "resolvectl"
        command.write_text(SCRIPT.format(folder=folder))
        command.chmod(0o755)
        (folder / "output").write_text(OUTPUT)
        self.uplinks = folder / "uplinks"
        self.uplinks.write_text("nameserver 192.0.2.1\n")
        self.resolv_conf = folder / "resolv.conf"
        self.resolv_conf.symlink_to("stub-resolv.conf")
        self.dns = ResolvedDns("tun-firezone", ResolvConf(self.resolv_conf), self.uplinks)

    def asked(self) -> list[str]:
        """What resolvectl was asked since the last call."""
        path = self.folder / "asked"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return Stage(tmp_path)


def test_all_names_lead_to_the_sentinels_and_llmnr_is_on(stage: Stage) -> None:
    async def work() -> None:
        await stage.dns.start()
        assert stage.asked() == ["dns"]
        await stage.dns.apply(ONE)
        assert stage.asked() == [
            "dnsovertls tun-firezone no",
            "dns tun-firezone 100.100.111.1 fd00:2021:1111:8000:100:100:111:0",
            "domain tun-firezone ~.",
            "llmnr tun-firezone true",
        ]
        await stage.dns.apply(Wanted(ONE.sentinels[:1], "internal.example"))
        assert "domain tun-firezone internal.example ~." in stage.asked()
        await stage.dns.flush()
        await stage.dns.apply(Wanted())
        assert stage.asked() == ["flush-caches", "revert tun-firezone"]
        await stage.dns.close()
        assert stage.asked() == []

    asyncio.run(work())


def test_the_hosts_servers_are_all_but_ours_and_resolved_itself(stage: Stage) -> None:
    async def work() -> Found:
        await stage.dns.start()
        await stage.dns.apply(ONE)
        return await stage.dns.look()

    assert asyncio.run(work()) == Found(
        (
            SystemServer(ip_address("192.0.2.9")),
            SystemServer(ip_address("192.0.2.1")),
            SystemServer(ip_address("fe80::1"), "2"),
        )
    )


def test_it_is_asked_again_when_its_own_file_changes_and_once_a_minute(stage: Stage) -> None:
    async def work() -> None:
        await stage.dns.start()
        stage.asked()
        for _ in range(11):
            await stage.dns.look()
        assert stage.asked() == []
        await stage.dns.look()
        assert stage.asked() == ["dns"]
        (stage.folder / "output").write_text("Global: 192.0.2.8\n")
        os.utime(stage.uplinks, ns=(1, 1))
        assert (await stage.dns.look()).servers == (SystemServer(ip_address("192.0.2.8")),)
        stage.uplinks.unlink()  # nothing to go by
        await stage.dns.look()
        await stage.dns.look()
        assert stage.asked() == ["dns", "dns", "dns"]

    asyncio.run(work())


def test_who_takes_our_servers_away_is_seen(stage: Stage) -> None:
    async def work() -> None:
        await stage.dns.start()
        await stage.dns.apply(ONE)
        assert (await stage.dns.look()).is_in_place
        (stage.folder / "output").write_text("Global: 192.0.2.8\nLink 7 (tun-firezone):\n")
        os.utime(stage.uplinks, ns=(1, 1))
        assert not (await stage.dns.look()).is_in_place

    asyncio.run(work())


def test_a_host_without_resolved_is_told_which_setting_to_choose(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = "choose etc-resolv-conf, where /etc/resolv.conf is a regular file, or disabled, or start systemd-resolved"
    (stage.folder / "fails-dns").touch()
    with pytest.raises(DnsControlError) as error:
        asyncio.run(stage.dns.start())
    assert str(error.value).startswith(
        "FIREZONE_DNS_CONTROL=systemd-resolved: resolvectl dns failed (Failed to dns: Unit "
        f"dbus-org.freedesktop.resolve1.service not found.): {remedy}"
    )
    monkeypatch.setenv("PATH", str(stage.folder / "nothing"))
    with pytest.raises(DnsControlError) as error:
        asyncio.run(stage.dns.start())
    assert f"the command resolvectl is missing: {remedy}" in str(error.value)


def test_a_command_that_hangs_is_ended(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolved, "_COMMAND_SECONDS", 0.05)
    (stage.folder / "hangs").touch()
    with pytest.raises(
        DnsControlError, match=r"resolvectl dns does not end within .* s: systemctl restart systemd-resolved, or choose"
    ):
        asyncio.run(stage.dns.start())


def test_an_old_resolved_without_a_setting_for_tls_is_none_the_worse(stage: Stage) -> None:
    (stage.folder / "fails-dnsovertls").touch()
    asyncio.run(stage.dns.apply(ONE))
    assert "domain tun-firezone ~." in stage.asked()


def test_what_a_run_in_the_other_mode_left_is_undone_first(stage: Stage) -> None:
    stage.resolv_conf.unlink()
    stage.resolv_conf.write_text("nameserver 192.0.2.1\n")
    ResolvConf(stage.resolv_conf).write(ONE)
    asyncio.run(stage.dns.start())
    assert stage.resolv_conf.read_text() == "nameserver 192.0.2.1\n"
