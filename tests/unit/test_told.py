"""What a test tells is read whole; a token in it fails the test, in whichever process it ran."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documented import ROOT
from tests.told import RecordReader, Watch, watched

TOKEN = "some-token-" + "long-enough"  # in pieces, or this test would tell it
OF_THE_ENVIRONMENT = "0123456789abcdefg"


@pytest.fixture
def log() -> logging.Logger:
    return logging.Logger("told")


def test_records_are_read_with_fields_and_tracebacks(log: logging.Logger) -> None:
    watch = Watch()
    log.addHandler(RecordReader(watch))
    log.info("Nothing to see")
    assert watch.take() == []
    log.info("Got %s", TOKEN)
    log.info("Got a request", extra={"fields": {"path": f"/websocket?token={TOKEN}"}})
    try:
        raise ValueError(f"400, message: {TOKEN}")
    except ValueError:
        log.info("Error handling request", exc_info=True)
    leaks = watch.take()
    assert len(leaks) == 3
    assert leaks[1] == "a line of told: Got a request /websocket?token=<TOKEN>"
    assert TOKEN not in "".join(leaks)
    assert watch.take() == []


def test_what_processes_say_is_read_from_files_and_pipes(tmp_path: Path) -> None:
    watch = Watch()
    popen = watched(watch)
    script = "import os; print('token is', os.environ['FIREZONE_TOKEN'])"
    environment = {"FIREZONE_TOKEN": OF_THE_ENVIRONMENT}
    with (tmp_path / "log").open("ab") as output:
        popen([sys.executable, "-c", script], env=environment, stdout=output).communicate()
    (tmp_path / "log").unlink()
    assert watch.take() == ["what a process wrote: token is <TOKEN>"]
    popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True).communicate()
    assert "what a process said: token is <TOKEN>" in watch.take()
    popen(
        [sys.executable, "-c", "print('token')"], env={"FIREZONE_TOKEN": "token"}, stdout=subprocess.PIPE
    ).communicate()
    watch.close()


@pytest.mark.parametrize("processes", ["0", "2"])
def test_the_test_that_tells_fails(tmp_path: Path, processes: str) -> None:
    # A token that only the inner run knows.
    (tmp_path / "conftest.py").write_text(
        "from tests.told import Told\n\n\ndef pytest_configure(config):\n    told = Told()\n"
        f"    told.watch.learn({{'A_TOKEN': '{OF_THE_ENVIRONMENT}'}})\n    config.pluginmanager.register(told)\n"
    )
    (tmp_path / "test_two.py").write_text(
        f"import logging\n\n\ndef test_tells():\n    logging.getLogger('x').warning('{OF_THE_ENVIRONMENT}')\n"
        "\n\ndef test_is_quiet():\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "-o", f"pythonpath={ROOT}", "-n", processes]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert "a line of x: <TOKEN>" in done.stdout
