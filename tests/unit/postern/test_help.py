"""``--help``, shell completions and manual pages: of one source, and nothing is left out of any of them."""

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from connectivity.settings import Declared
from postern import cli, completion
from postern.help_text import declared_by, render
from postern.synopses import SYNOPSES
from tests.documented import claimed

MODULES = {name: module for name, (module, _) in cli.COMMANDS.items()}


@cache
def declared(command: str) -> tuple[Declared, ...]:
    return declared_by(command, MODULES)


def flags_of(command: str) -> set[str]:
    return {entry.flag for entry in declared(command) if entry.flag is not None}


def test_every_command_has_a_synopsis() -> None:
    assert {command.split()[0] for command in SYNOPSES} == cli.COMMANDS.keys()


@pytest.mark.parametrize("command", SYNOPSES)
def test_help_fits_begins_with_what_most_need_and_leaves_nothing_out(command: str) -> None:
    text = render(command, declared(command))
    assert text.startswith(f"usage: postern {command}")
    lines = text.splitlines()
    titles = [line.strip() for line in lines]
    assert max(len(line) for line in lines if " or " not in line) <= 80
    for entry in declared(command):
        assert any(title.startswith(entry.flag or str(entry.name)) for title in titles), entry
    named = {entry.flag for entry in declared(command)} | {entry.name for entry in declared(command)}
    assert set(SYNOPSES[command].first) <= named
    if SYNOPSES[command].first:
        first = SYNOPSES[command].first[0]
        assert re.search(rf"What most need:\n  {re.escape(first)}", text)


def test_what_has_no_effect_comes_last() -> None:
    entries = [Declared(None, "--old", "accepted, without effect", ""), Declared(None, "--json", "as JSON", "")]
    text = render("demo", entries)
    assert text.index("--json") < text.index("Accepted, without effect:") < text.index("--old")


def test_help_of_a_relay_shows_the_token_and_what_excludes_what(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["relay", "--help"]) == 0
    said = capsys.readouterr().out
    assert "postern relay TOKEN-FILE [NAME]" in said
    assert "With --config" in said
    assert cli.main(["relay", "admin", "--help"]) == 0
    assert "postern relay admin show PORT" in capsys.readouterr().out


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_completion_has_every_command_and_flag(shell: str) -> None:
    script = completion.SHELLS[shell](completion.all_words())
    for command in SYNOPSES:
        line = next(
            line for line in script.splitlines() if f"__postern_at {command}'" in line or f'"{command}")' in line
        )
        assert flags_of(command) <= set(re.findall(r"--?[\w-]+", line)), command


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("postern rel", {"relay"}),
        ("postern relay adm", {"admin"}),
        ("postern relay --conf", {"--config"}),
        ("postern relay admin of", {"offload"}),
        ("postern doctor g", {"gateway"}),
        ("postern client status --wat", {"--watch"}),
    ],
)
def test_the_documented_completion(typed: str, expected: set[str], tmp_path: Path) -> None:
    (command,) = claimed("test_help::test_the_documented_completion")
    script = tmp_path / "completion"
    script.write_text(_said(command))
    words = " ".join(f"'{word}'" for word in typed.split())
    asked = f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed.split()) - 1}; _postern; "
    done = subprocess.run(
        ["bash", "-c", asked + 'printf "%s\\n" "${COMPREPLY[@]}"'], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == expected


def test_the_documented_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = claimed("test_help::test_the_documented_pages")
    _said(command)
    pages = {path.name: path.read_text() for path in (tmp_path / "build/man").iterdir()}
    assert pages.keys() == {"postern.1", *(f"postern-{first}.1" for first in cli.COMMANDS)}
    for wanted in SYNOPSES:
        text = pages[f"postern-{wanted.split()[0]}.1"].replace(r"\-", "-")
        assert f".SH POSTERN {wanted.upper()}\n" in text
        assert all(flag in text for flag in flags_of(wanted)), wanted
    assert all(rf"postern\-{first}" in pages["postern.1"] for first in cli.COMMANDS)
    if shutil.which("groff") is not None:
        for name in pages:
            words = ["groff", "-man", "-Tutf8", "-ww", "-z", str(tmp_path / "build/man" / name)]
            assert subprocess.run(words, capture_output=True, text=True, check=True).stderr == "", name


def test_a_shell_that_is_not_known_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "csh"]) == 2
    assert cli.main(["man"]) == 2
    assert "expected one of bash, zsh, fish" in capsys.readouterr().err


def _said(command: str) -> str:
    """What a documented command prints."""
    words = [sys.executable, "-c", "import sys; from postern.cli import main; sys.exit(main())", *command.split()[1:]]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout
