"""A short run of the fuzz target of the XDP program's parser, and the proof that it would find something."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.fuzz import relay_parser
from tests.fuzz.libfuzzer import NO_CLANG


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = relay_parser.build(tmp_path_factory.mktemp("fuzz"))
    if isinstance(built, Path):
        return built
    if built == NO_CLANG and os.environ.get("CI") == "true":
        pytest.fail(built)
    pytest.skip(built)


def test_nothing_is_found_in_a_short_run(fuzzer: Path, tmp_path: Path) -> None:
    relay_parser.write_seeds(tmp_path)
    done = subprocess.run(
        [fuzzer, "-runs=300000", "-seed=1", "-max_len=256", "-close_fd_mask=1", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 300000 runs" in done.stderr


def test_a_header_that_is_not_checked_would_be_found(
    tmp_path: Path, fuzzer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with a bound left out of the parser."""
    assert fuzzer.is_file()
    include = tmp_path / "include"
    include.mkdir()
    for header in relay_parser._INCLUDE.glob("*.h"):
        text = header.read_text()
        (include / header.name).write_text(text.replace("if ((void *)(udp + 1) > cursor->end)", "if (!udp)"))
    monkeypatch.setattr(relay_parser, "_INCLUDE", include)
    broken = relay_parser.build(tmp_path)
    assert isinstance(broken, Path)
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    relay_parser.write_seeds(seeds)
    done = subprocess.run(
        [broken, "-runs=300000", "-seed=1", "-max_len=256", seeds], capture_output=True, check=False, cwd=tmp_path
    )
    assert done.returncode
    assert b"AddressSanitizer" in done.stderr
