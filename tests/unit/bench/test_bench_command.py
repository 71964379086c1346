"""How the benchmarks are called, and the kernel's limits while they run."""

from pathlib import Path

import pytest

from bench.command import KINDS
from bench.limits import raised_limits
from bench.stack import CHOICES, read_settings
from connectivity.io.buffers import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES
from connectivity.settings import SettingsError
from postern.cli import main


@pytest.fixture(autouse=True)
def _no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSTERN_TEST_PEERS", raising=False)


def test_each_kind_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    said = capsys.readouterr().out
    for kind in KINDS:
        assert f"postern bench {kind}" in said
        assert main(["bench", kind, "--help"]) == 0
        assert f"usage: postern bench {kind} [flags]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the kind of benchmark is missing: expected one of stack, relay, siege, faults, scale, tunnel"),
        (["stak"], "'stak' is no kind of benchmark: expected one of stack, relay, siege, faults, scale, tunnel"),
        (["stack", "--rounds", "0"], "--rounds is '0': "),
        (["stack", "--only", "sideways"], "--only is 'sideways': "),
        (["siege", "--only", "storm"], "--only is 'storm': "),
        (["faults", "--only", "earthquake"], "--only is 'earthquake': "),
        (["siege", "--seconds", "31"], "--seconds is '31': "),
        (
            ["siege", "--programs", "/nowhere/postern"],
            "--programs is '/nowhere/postern': expected the path of a program",
        ),
        (["stack", "--quickly"], "--quickly is not a flag of postern bench stack"),
        (["tunnel", "--loads", "tcp1,tcp2"], "--loads is 'tcp1,tcp2': expected some of tcp1, tcp4, tcp8, udp1200"),
        (["tunnel", "--wireguard-go", "/nowhere"], "--wireguard-go is '/nowhere': expected the path of a program"),
    ],
)
def test_a_wrong_call_is_one_line_and_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("postern bench: ")
    assert said in line


def test_defaults_ask_for_the_buffers_that_the_services_ask_for() -> None:
    settings = read_settings([])
    assert settings.terms.environment == {
        "FIREZONE_UDP_RECV_BUFFER_SIZE": str(RECEIVE_BUFFER_BYTES),
        "FIREZONE_UDP_SEND_BUFFER_SIZE": str(SEND_BUFFER_BYTES),
    }
    assert settings.terms.overload
    assert settings.peers is None
    assert set(CHOICES) == {"direct-ipv4", "relayed-ipv4", "direct-ipv6", "relayed-ipv6"}


def test_no_peers_may_be_said_knowingly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTERN_TEST_PEERS", "none")
    assert read_settings([]).peers is None
    monkeypatch.setenv("POSTERN_TEST_PEERS", "/somewhere")
    assert read_settings([]).peers == Path("/somewhere")
    with pytest.raises(SettingsError):
        read_settings(["--peers"])


def test_limits_are_raised_meanwhile_and_only_then(tmp_path: Path) -> None:
    (tmp_path / "rmem_max").write_text("212992\n")
    (tmp_path / "wmem_max").write_text(str(1 << 30))
    with raised_limits(tmp_path, tmp_path / "record") as limits:
        assert limits == {"rmem_max": RECEIVE_BUFFER_BYTES, "wmem_max": 1 << 30}  # never lowered
    assert (tmp_path / "rmem_max").read_text() == "212992"
    assert (tmp_path / "wmem_max").read_text() == str(1 << 30)


def test_limits_go_back_after_a_failure_but_not_over_what_another_has_set(tmp_path: Path) -> None:
    for name in ("rmem_max", "wmem_max"):
        (tmp_path / name).write_text("1000")

    def fail() -> None:
        with raised_limits(tmp_path, tmp_path / "record"):
            (tmp_path / "wmem_max").write_text("77")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (tmp_path / "rmem_max").read_text() == "1000"
    assert (tmp_path / "wmem_max").read_text() == "77"


def test_of_two_benchmarks_the_last_one_sets_the_limits_back(tmp_path: Path) -> None:
    for name in ("rmem_max", "wmem_max"):
        (tmp_path / name).write_text("1000")
    first, second, third = (raised_limits(tmp_path, tmp_path / "record") for _ in range(3))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert third.__enter__() == {"rmem_max": RECEIVE_BUFFER_BYTES, "wmem_max": SEND_BUFFER_BYTES}
    second.__exit__(None, None, None)
    assert (tmp_path / "rmem_max").read_text() == str(RECEIVE_BUFFER_BYTES)
    third.__exit__(None, None, None)
    assert (tmp_path / "rmem_max").read_text() == (tmp_path / "wmem_max").read_text() == "1000"


def test_what_a_killed_benchmark_raised_the_next_one_sets_back(tmp_path: Path) -> None:
    for name in ("rmem_max", "wmem_max"):
        (tmp_path / name).write_text(str(SEND_BUFFER_BYTES + RECEIVE_BUFFER_BYTES))
    (tmp_path / "rmem_max").write_text(str(RECEIVE_BUFFER_BYTES))
    (tmp_path / "record").write_text('{"rmem_max": 1000, "wmem_max": 1000}')
    with raised_limits(tmp_path, tmp_path / "record"):
        pass
    assert (tmp_path / "rmem_max").read_text() == "1000"
    assert (tmp_path / "wmem_max").read_text() == str(SEND_BUFFER_BYTES + RECEIVE_BUFFER_BYTES)
