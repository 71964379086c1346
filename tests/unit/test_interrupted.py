"""A run of tests that is interrupted, or terminated, cleans up, also where it was started with SIGINT ignored."""

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.documented import ROOT

TESTS = """
import signal
import pytest


@pytest.fixture
def something():
    yield
    print("cleaned up")


def test_that_is_ended(something):
    signal.raise_signal({number})
    print("went on")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 2), (signal.SIGTERM, 143)])
def test_fixtures_end_in_order(number: signal.Signals, code: int, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_configure\n")
    (tmp_path / "test_one.py").write_text(TESTS.format(number=int(number)))
    command = [sys.executable, "-m", "pytest", "-s", "-c", "/dev/null", "-o", f"pythonpath={ROOT}"]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN),  # as `nohup` and `&` start it
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    assert "cleaned up" in done.stdout
    assert "went on" not in done.stdout
