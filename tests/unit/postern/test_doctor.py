"""The doctor names what is missing and says ok where nothing is."""

import json
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from connectivity.endpoint import Endpoint
from connectivity.settings import SettingsError
from postern import doctor
from postern.doctor import checks, host, incoming, ports, start_up, unit
from postern.doctor.checks import Check
from postern.doctor.finding import Finding, remark
from postern.doctor.ports import Holder


def test_each_concern_is_ok_or_lists_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both, relay = frozenset({"relay", "client"}), frozenset({"relay"})
    fine = Check("one", both, "to do it", lambda: [remark("it is so")])
    broken = Check("other", relay, "to have it", lambda: [Finding("a thing is missing", "buy one")])
    monkeypatch.setattr(checks, "CHECKS", (fine, broken))
    assert doctor.run([]) == doctor.run(["relay"]) == 1
    is_fine = "one: ok (to do it)\n  - it is so\n"
    assert capsys.readouterr().out == 2 * f"{is_fine}other: (to have it)\n  - a thing is missing\n    → buy one\n"
    assert doctor.run(["client"]) == 0
    assert capsys.readouterr().out == is_fine
    assert doctor.run(["--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["healthy"]
    assert [concern["ok"] for concern in report["concerns"]] == [True, False]
    assert report["concerns"][1]["findings"] == [{"what": "a thing is missing", "remedy": "buy one", "hinders": True}]


def test_sentences_fit_the_screen_and_commands_stay_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "nft insert rule inet a-table-of-somebody-else a-chain-with-a-long-name iifname tun-firezone accept"
    what = f"chain {'x' * 90} drops what comes from [2001:db8:1234:5678:9abc:def0:1234:5678]:65535, as far as one sees"
    found = [Finding(what, command), Finding("it is so", f"look at {what}")]
    monkeypatch.setattr(checks, "CHECKS", (Check("one", frozenset({"relay"}), "to try", lambda: found),))
    doctor.run(["relay"])
    lines = capsys.readouterr().out.splitlines()
    assert lines.count(f"    → {command}") == 1
    assert all(len(line) <= 80 for line in lines if command not in line)
    assert [line[:6] for line in lines if line[:4].strip()] == ["one: (", "  - ch", "  - it"]


def test_services_that_are_set_up_here_are_examined_unless_one_is_named(
    settings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Check(name, frozenset({name}), "", list) for name in ("relay", "portal")]
    monkeypatch.setattr(checks, "CHECKS", found)
    (settings / "portal.yaml").write_text("")
    doctor.run([])
    first, *others = capsys.readouterr().out.splitlines()
    assert first == "Examined by the settings that are here: portal. Another has to be named."
    assert others == ["portal: ok ()"]
    doctor.run(["relay"])
    assert capsys.readouterr().out == "relay: ok ()\n"


def test_a_unit_without_its_drop_in_for_the_offload_that_is_asked_for_is_told(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit, "_UNITS", (settings,))
    monkeypatch.setattr(start_up, "_incoming_filters", list)
    (settings / "relay.token").write_text("t" * 20)
    (settings / "relay.env").write_text(
        "FIREZONE_API_URL=ws://127.0.0.1:1\nPUBLIC_IP4_ADDR=192.0.2.1\nHEALTH_CHECK_ADDR=127.0.0.1:0\n"
        "POSTERN_EBPF_INTERFACES=eth0\n"
    )

    def told() -> bool:
        return any("the unit has no privilege for it" in finding.what for finding in start_up.examine("relay"))

    assert not told()  # no unit here: a container
    (settings / "postern-relay.service").write_text("[Service]\n")
    assert told()
    (settings / "postern-relay.service.d").mkdir()
    (settings / "postern-relay.service.d/offload.conf").write_text("[Service]\nAmbientCapabilities=CAP_BPF\n")
    assert not told()


def test_what_cannot_be_examined_is_named() -> None:
    with pytest.raises(SettingsError) as error:
        doctor.run(["relais", "now"])
    assert "'relais' is not a service to examine: expected one of client, gateway, portal, relay" in str(error.value)
    assert "'now' is not expected here" in str(error.value)


def test_no_device_node_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_TUN", tmp_path / "tun")
    assert any("is missing" in problem.what for problem in host.tunnel())


def test_masquerading_needs_nft_and_forwarding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_SYSCTL", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    problems = host.masquerading()
    assert problems[0] == Finding("the command nft is missing", "apt-get install nftables")
    assert len(problems) == 3
    for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("1\n")
    assert len(host.masquerading()) == 1


def test_small_limits_are_no_news_to_root_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net/core").mkdir(parents=True)
    for name in ("rmem_max", "wmem_max"):
        (tmp_path / "net/core" / name).write_text("212992\n")
    monkeypatch.setattr(host, "_SYSCTL", tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert sum("bursts may be lost" in problem.what for problem in host.udp()) == 2
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert not any("bursts" in problem.what for problem in host.udp())


def test_a_mode_for_dns_that_cannot_work_is_missing_something_only_if_it_was_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(start_up, "FOLDER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # without resolvectl
    monkeypatch.setenv("FIREZONE_DNS_CONTROL", "systemd-resolved")
    (found,) = host.dns_control()
    assert found.hinders
    assert "the command resolvectl is missing: choose etc-resolv-conf" in found.what
    monkeypatch.delenv("FIREZONE_DNS_CONTROL")
    (unwise,) = host.dns_control()
    assert not unwise.hinders
    assert unwise.what == f"the default does not work here: {found.what}"
    (tmp_path / "client.token").write_text("t" * 20)  # a client that would end by it
    (hindering,) = host.dns_control()
    assert (hindering.hinders, hindering.what) == (True, unwise.what)
    monkeypatch.setenv("FIREZONE_DNS_CONTROL", "disabled")
    assert host.dns_control() == []
    monkeypatch.setenv("FIREZONE_DNS_CONTROL", "resolved")
    (found,) = host.dns_control()
    expected = "expected one of systemd-resolved, etc-resolv-conf, disabled"
    assert found.what == f"FIREZONE_DNS_CONTROL is 'resolved': {expected}"


def test_strict_source_validation_is_worth_a_remark_unless_marks_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_SYSCTL", tmp_path)
    values = {"all/rp_filter": 0, "lo/rp_filter": 1, "eth0/rp_filter": 1, "eth1/rp_filter": 2, "all/src_valid_mark": 0}

    def found(**changes: int) -> list[Finding]:
        for name, value in (values | {key.replace("_", "/", 1): value for key, value in changes.items()}).items():
            (tmp_path / "net/ipv4/conf" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "net/ipv4/conf" / name).write_text(f"{value}\n")
        return host.source_validation()

    (strict,) = found()
    assert "rp_filter is 1 (strict) for eth0:" in strict.what
    assert not strict.hinders
    assert found(all_rp_filter=2) == found(all_src_valid_mark=1) == found(eth0_rp_filter=0) == []


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host without settings of ours in its environment, and its folder for them."""
    for name in [name for name in os.environ if name.startswith(start_up.PREFIXES)]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(start_up, "FOLDER", tmp_path)
    monkeypatch.setattr(start_up, "SOCKET_FOLDER", tmp_path)
    return tmp_path


def test_without_settings_only_the_host_is_looked_at(settings: Path) -> None:
    for service in ("relay", "gateway", "client", "portal"):
        (found,) = start_up.examine(service)
        assert found.what == "no settings here, so only the host was looked at"
        assert str(settings / service) in found.remedy
        assert not found.hinders


def test_the_settings_of_a_unit_are_read_and_what_is_wrong_with_them_is_told(settings: Path) -> None:
    (settings / "gateway.env").write_text("FIREZONE_API_URL=ftp://x\n# A=b\nPOSTERN_FORWARD=all\n")
    (settings / "gateway.token").write_text("t" * 20)
    before = dict(os.environ)
    said = [finding.what for finding in start_up.examine("gateway")]
    assert [line.split(" ")[0] for line in said] == ["POSTERN_FORWARD", "FIREZONE_API_URL"]
    assert dict(os.environ) == before
    (settings / "portal.yaml").write_text("sites: 1\n")
    (found,) = start_up.examine("portal")
    assert "sites is 1: expected a list" in found.what


def test_ports_and_the_way_to_the_portal_are_tried(settings: Path) -> None:
    with socket.socket() as taken, socket.socket() as plain:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        plain.bind(("127.0.0.1", 0))
        port = plain.getsockname()[1]
        (settings / "gateway.env").write_text(
            f"FIREZONE_API_URL=ws://127.0.0.1:{port}\nHEALTH_CHECK_ADDR=127.0.0.1:{taken.getsockname()[1]}\n"
        )
        (settings / "gateway.token").write_text("t" * 20)
        busy, refused = start_up.examine("gateway")
        assert f"cannot listen at TCP 127.0.0.1:{taken.getsockname()[1]}: in use by" in busy.what
        assert f"(PID {os.getpid()})" in busy.what
        assert busy.hinders
        assert refused.what == f"the portal 127.0.0.1:{port} cannot be reached: Connection refused"
        plain.listen()
        assert start_up.examine("gateway") == [busy]
        with socket.socket(socket.AF_UNIX) as running:  # then its ports are its own
            running.bind(str(settings / "gateway.sock"))
            running.listen()
            (found,) = start_up.examine("gateway")
            where = f"127.0.0.1:{taken.getsockname()[1]}"
            assert found == remark(f"it runs here (PID {os.getpid()}) and listens at TCP {where}")
            taken.close()
            (found,) = start_up.examine("gateway")
            assert found.what == f"it runs here (PID {os.getpid()}), but does not listen at TCP {where}"
            assert not found.hinders
    (settings / "gateway.env").write_text("FIREZONE_API_URL=ws://portal.invalid\n")
    assert any("name servers" in finding.remedy for finding in start_up.examine("gateway"))


def test_who_holds_a_port_is_told_as_far_as_this_user_may_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for family, ip in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as taken:
            taken.bind((ip, 0))
            listens = [(Endpoint(ip_address(ip), taken.getsockname()[1]), socket.SOCK_DGRAM)]
            (other,) = ports.examine("relay", tmp_path / "relay.sock", listens)
            assert other.hinders
            assert f"(PID {os.getpid()})" in other.what
            with monkeypatch.context() as patched:
                patched.setattr(Holder, "is_service", lambda _, service: service == "relay")  # without a socket
                (own,) = ports.examine("relay", tmp_path / "relay.sock", listens)
                assert own == remark(f"it runs here (PID {os.getpid()}) and listens at UDP {listens[0][0]}")
            with monkeypatch.context() as patched:
                patched.setattr(ports, "_PROC", tmp_path)  # as of another user
                (unknown,) = ports.examine("relay", tmp_path / "relay.sock", listens)
                assert not unknown.hinders
                assert "Address already in use, by whom this user is not told" in unknown.what
    started = ("/usr/lib/postern/bin/python", "-P", "/usr/bin/postern", "relay", "")
    assert Holder(1, "postern", started).is_service("relay")
    assert not Holder(1, "postern", started).is_service("gateway")


@pytest.fixture
def relay_file(settings: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-alone relay as the unit has it, in a folder that everybody may enter; the unit's user is nobody."""
    monkeypatch.setattr(unit, "USER", "nobody")
    monkeypatch.setattr(start_up, "_incoming_filters", list)
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / "relay.yaml"
        file.write_text(
            "realm: example.org\npublic: {ipv4: 192.0.2.1}\nlisten: ['127.0.0.1:34789']\nusers: {alice: secret}\n"
        )
        text = f"POSTERN_RELAY_CONFIG={file}\nFIREZONE_TOKEN=\nHEALTH_CHECK_ADDR=127.0.0.1:34790\n"
        (settings / "relay.env").write_text(text)
        yield file


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as another user")
def test_a_file_that_root_may_read_and_the_units_user_may_not_is_told(
    relay_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay_file.chmod(0o600)
    (found,) = start_up.examine("relay")
    assert found.hinders
    assert "Permission denied" in found.what
    assert "chgrp nobody" in found.remedy
    assert os.geteuid() == 0
    relay_file.chmod(0o644)
    assert start_up.examine("relay") == []
    relay_file.chmod(0o600)
    monkeypatch.setenv("POSTERN_RELAY_CONFIG", str(relay_file))  # ours, not the unit's
    assert start_up.examine("relay") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as another user")
@pytest.mark.usefixtures("relay_file")
def test_a_low_port_of_a_unit_is_worth_a_remark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "start").write_text("40000\n")
    monkeypatch.setattr(unit, "_FREE_FROM", tmp_path / "start")
    found = start_up.examine("relay")
    assert [(each.what.split(",")[0], each.hinders) for each in found] == [
        ("port 34789 is below 40000", False),
        ("port 34790 is below 40000", False),
    ]


def test_chains_that_filter_what_comes_in_are_named_with_what_they_have_to_let_in(
    relay_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay_file.chmod(0o644)
    monkeypatch.setattr(start_up, "_incoming_filters", lambda: ["inet filter input"])
    monkeypatch.setattr(incoming, "examine", lambda *_: [])
    (found,) = start_up.examine("relay")
    assert not found.hinders
    assert "inet filter input" in found.what
    assert found.remedy == "nothing, if they let in UDP 34789, 49152-65535 and TCP 34789"


def test_only_what_comes_in_is_of_interest(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ["inet filter forward", "inet filter input", "ip filter (iptables-legacy)", "ip x output"]
    monkeypatch.setattr("connectivity.io.firewall.filters", lambda: there)
    assert start_up._incoming_filters() == there[1:3]
