"""The command line finds the service and turns every end of it into an exit code and at most one line."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType

import pytest

from connectivity.errors import FatalError
from connectivity.settings import SettingsError
from postern.cli import COMMANDS, main


def test_without_arguments_the_usage_is_on_stderr_and_the_code_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("usage: postern COMMAND")
    assert all(f"postern {name}" in said.err for name in COMMANDS)


def test_help_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith("usage: postern COMMAND")


@pytest.mark.parametrize("words", [["version"], ["--version"], ["gateway", "--version"]])
def test_the_version_is_that_of_the_distribution(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out == f"postern {version('postern')}\n"


def test_help_is_a_word_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    assert capsys.readouterr().out.startswith("usage: postern COMMAND")
    assert main(["help", "gateway"]) == 0
    assert capsys.readouterr().out.startswith("usage: postern gateway")


def test_a_reader_who_has_seen_enough_of_the_help_is_no_error() -> None:
    command = [sys.executable, "-c", "from postern.cli import main; raise SystemExit(main())", "help", "relay"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.parametrize("word", ["stauts", "statuss", "restart", "show-status"])
def test_a_bare_word_is_no_token(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gateway", word]) == 2
    assert f"{word!r} is neither a command nor a token" in capsys.readouterr().err


def test_an_unknown_command_is_one_line_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["realy"]) == 2
    assert capsys.readouterr().err == f"postern: 'realy' is not a command: expected one of {', '.join(COMMANDS)}\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (SettingsError(["A is 'x': expected y", "B is not set"]), 2, "A is 'x': expected y; B is not set"),
        (FatalError("cannot serve"), 1, "cannot serve"),
        (FatalError("the portal says \x1b[2J\u202eno\r\nline"), 1, "the portal says \\x1b[2J\\u202eno\\x0d line"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (KeyError("address"), 1, "KeyError: 'address' (RUST_LOG=debug shows where)"),
    ],
)
def test_every_error_of_a_service_is_one_line(
    error: Exception, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _serve_with(error, monkeypatch)
    assert main(["relay"]) == code
    said = capsys.readouterr()
    assert said.err == f"postern relay: {line}\n"
    assert said.out == ""


def test_an_interrupt_is_what_a_shell_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    _serve_with(KeyboardInterrupt(), monkeypatch)
    assert main(["relay"]) == 130


@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupt_ends_what_was_started_with_interrupts_ignored(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_: list[str]) -> int:
        signal.raise_signal(signal.SIGINT)
        return 0

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _stand_in(COMMANDS[command][0], run, monkeypatch)
        assert main([command]) == 130
    finally:
        signal.signal(signal.SIGINT, before)


def _serve_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: list[str]) -> int:
        raise error

    _stand_in("relay.command", run, monkeypatch)


def _stand_in(name: str, run: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(name)
    module.run = run  # type: ignore[attr-defined]  # a stand-in for the service
    monkeypatch.setitem(sys.modules, name, module)


def test_nobody_looks_for_garbage_among_what_is_imported() -> None:
    program = textwrap.dedent(
        """
        import gc, sys, types
        from postern import cli

        command = types.ModuleType("command")
        command.run = lambda _: print(gc.isenabled(), gc.get_freeze_count() > 1000) or 0
        sys.modules["command"], cli.COMMANDS["doctor"] = command, ("command", "")
        sys.argv = ["postern", "doctor"]
        print(cli.main(), gc.get_freeze_count() > 1000)
        cli.main(["doctor"])
        """
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.split() == ["True", "True", "0", "True", "True", "True"]
