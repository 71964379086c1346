"""The siege measures what it is said to: short, and without looking at speeds."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

POSTERN = Path(sys.executable).with_name("postern")

pytestmark = pytest.mark.root


@pytest.mark.parametrize("flood", ["tokens", "bindings"])
def test_a_flood_is_sent_and_what_it_does_is_told(tmp_path: Path, flood: str) -> None:
    found = _besiege(tmp_path, flood)
    figures = {row["text"]: row for row in found["figures"]}
    assert found["problems"] == []
    if flood == "tokens":
        assert figures["wrong tokens: answered"]["value"] > 0
        assert figures["wrong tokens: a right one's join, worst"]["value"] > 0
    else:
        assert figures["forged Bindings: rate reached"]["value"] > 100  # of the 1,000 that a busy machine may not reach
        assert figures["forged Bindings: of 8 refreshes fail"]["value"] is not None


def test_another_program_can_be_besieged_and_a_failure_is_told(tmp_path: Path) -> None:
    program = tmp_path / "postern"
    program.write_text("#!/bin/sh\necho not today\nexit 3\n")
    program.chmod(0o755)
    found = _besiege(tmp_path, "tokens", "--programs", str(program))
    (problem,) = found["problems"]
    assert problem.startswith("tokens: portal ended with code 3: not today")
    assert not found["ok"]


def _besiege(folder: Path, flood: str, *more: str) -> dict[str, Any]:
    kept = folder / "figures.json"
    command = [str(POSTERN), "bench", "siege", "--only", flood, "--seconds", "1", "--json", str(kept), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    found: dict[str, Any] = json.loads(kept.read_text())
    assert done.returncode == (0 if found["ok"] else 1), done.stderr
    return found
