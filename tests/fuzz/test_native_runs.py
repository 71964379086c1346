"""A short run of the fuzz target of the compiled helper, and the proof that it would find something."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from connectivity.native import build as helper
from tests.fuzz import native_runs
from tests.fuzz.libfuzzer import NO_CLANG

BOUNDS = {
    "flows.c": ("found->length <= room && ", ""),
    "split.c": ("> capacity", "> capacity + 300"),
}


def _built(directory: Path, sources: Path = helper.FOLDER) -> Path:
    built = native_runs.build(directory, sources)
    if isinstance(built, Path):
        return built
    if built == NO_CLANG and os.environ.get("CI") == "true":
        pytest.fail(built)
    pytest.skip(built)


def _fuzzed(fuzzer: Path, directory: Path, runs: int) -> subprocess.CompletedProcess[str]:
    seeds = directory / "seeds"
    seeds.mkdir()
    native_runs.write_seeds(seeds)
    command = [str(fuzzer), f"-runs={runs}", "-seed=1", "-max_len=700", "-close_fd_mask=1", str(seeds)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, cwd=directory)


def test_nothing_is_found_in_a_short_run(tmp_path: Path) -> None:
    done = _fuzzed(_built(tmp_path), tmp_path, 10_000)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 10000 runs" in done.stderr


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_that_is_missing_would_be_found(tmp_path: Path, name: str) -> None:
    sources = tmp_path / "sources"
    shutil.copytree(helper.FOLDER, sources, ignore=shutil.ignore_patterns("built"))
    text = (sources / name).read_text(encoding="utf-8")
    bound, without = BOUNDS[name]
    assert bound in text
    (sources / name).write_text(text.replace(bound, without), encoding="utf-8")
    done = _fuzzed(_built(tmp_path, sources), tmp_path, 200_000)
    assert done.returncode
    assert "AddressSanitizer" in done.stderr
