"""The doctor names what is missing and says ok where nothing is."""

from pathlib import Path

import pytest

from connectivity.settings import SettingsError
from postern import doctor


def test_each_concern_is_ok_or_lists_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both, relay = frozenset({"relay", "client"}), frozenset({"relay"})
    concerns = {"one": (both, list), "other": (relay, lambda: ["a thing is missing"])}
    monkeypatch.setattr(doctor, "CONCERNS", concerns)
    assert doctor.run([]) == doctor.run(["relay"]) == 1
    assert capsys.readouterr().out == 2 * "one: ok\nother:\n  - a thing is missing\n"
    assert doctor.run(["client"]) == 0
    assert capsys.readouterr().out == "one: ok\n"


def test_what_cannot_be_examined_is_named() -> None:
    with pytest.raises(SettingsError) as error:
        doctor.run(["relais", "now"])
    assert "'relais' is not a service to examine: expected one of client, gateway, relay" in str(error.value)
    assert "'now' is not expected here" in str(error.value)


def test_no_device_node_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_TUN", tmp_path / "tun")
    assert any("is missing" in problem for problem in doctor.tunnel())


def test_masquerading_needs_nft_and_forwarding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_SYSCTL", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    problems = doctor.masquerading()
    assert problems[0] == "the command nft is missing (Debian package nftables)"
    assert len(problems) == 3
    for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("1\n")
    assert len(doctor.masquerading()) == 1


def test_small_limits_are_no_news_to_root_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net/core").mkdir(parents=True)
    for name in ("rmem_max", "wmem_max"):
        (tmp_path / "net/core" / name).write_text("212992\n")
    monkeypatch.setattr(doctor, "_SYSCTL", tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert sum("bursts may be lost" in problem for problem in doctor.udp()) == 2
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert not any("bursts" in problem for problem in doctor.udp())


def test_a_mode_for_dns_that_cannot_work_is_missing_something_only_if_it_was_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without resolvectl
    monkeypatch.setenv("FIREZONE_DNS_CONTROL", "systemd-resolved")
    (line,) = doctor.dns_control()
    assert not isinstance(line, doctor.Remark)
    assert "the command resolvectl is missing: choose etc-resolv-conf" in line
    monkeypatch.delenv("FIREZONE_DNS_CONTROL")
    (remark,) = doctor.dns_control()
    assert isinstance(remark, doctor.Remark)
    assert remark == f"the default does not work here: {line}"
    monkeypatch.setenv("FIREZONE_DNS_CONTROL", "disabled")
    assert doctor.dns_control() == []
    monkeypatch.setenv("FIREZONE_DNS_CONTROL", "resolved")
    assert doctor.dns_control() == [
        "FIREZONE_DNS_CONTROL is 'resolved': expected one of systemd-resolved, etc-resolv-conf, disabled"
    ]
