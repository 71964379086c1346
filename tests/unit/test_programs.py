"""A check without its programs skips under ``CI=true`` too, and the last line says which checks had none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documented import ROOT
from tests.programs import PEERS, Folder

MODULE = "tests/interop/test_real_peers.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """One run of tests that all need upstream's programs, and the lines that it leaves."""
    lines = tmp_path_factory.mktemp("run") / "lines"
    environment = {**os.environ, "CI": "true", "POSTERN_TEST_LINES": str(lines)}
    environment.pop("POSTERN_TEST_PEERS", None)
    command = [sys.executable, "-m", "pytest", "-q", MODULE]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done, lines.read_text().splitlines() if lines.exists() else []


def test_without_programs_nothing_fails_and_one_line_says_what_did_not_run(
    run: tuple[subprocess.CompletedProcess[str], list[str]],
) -> None:
    done, lines = run
    assert done.returncode == 0, done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Not run for want of programs: "))
    assert f"of {MODULE} (POSTERN_TEST_PEERS names no folder with firezone-gateway, " in line
    assert line.endswith("; ".join(lines))
    assert len(lines) == 1


@pytest.mark.parametrize("folder", PEERS.values(), ids=[str(year) for year in PEERS])
def test_a_named_folder_needs_every_program_plain_or_packed(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(folder.variable, str(tmp_path))
    (tmp_path / "one").touch()
    with pytest.raises(pytest.skip.Exception, match=rf"{tmp_path} \({folder.variable}\) lacks two"):
        folder.require("one", "two")
    (tmp_path / "two.xz").touch()
    assert folder.require("one", "two") == tmp_path


def test_none_says_knowingly_that_there_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    folder = Folder("POSTERN_TEST_PEERS", default=tmp_path)
    monkeypatch.delenv("POSTERN_TEST_PEERS", raising=False)
    assert folder.require("one") == tmp_path
    monkeypatch.setenv("POSTERN_TEST_PEERS", "none")
    with pytest.raises(pytest.skip.Exception, match="POSTERN_TEST_PEERS names no folder with one"):
        folder.require("one")
