"""Long-running programs in a lab's namespaces: started with a small environment, logged to a file, ended in order."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.errors import LabError

PATIENCE: Final = "POSTERN_TEST_PATIENCE"
_POLL_SECONDS: Final = 0.05
_STOP_SECONDS: Final = 20.0  # a second is enough, but not on every machine
_END_SECONDS: Final = 5.0  # of each when all end, and nobody asks any more how
# What a program may inherit: never the caller's own settings or tokens.
_INHERITED: Final = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR"),
    *("BCC_KERNEL_SOURCE", "PYTHONDONTWRITEBYTECODE", "POSTERN_NATIVE"),
)


@dataclass(frozen=True, slots=True)
class Process:
    """One running program; ``log`` holds all it printed."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def running(self) -> bool:
        return self.popen.poll() is None

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def check(self) -> None:
        """Raise LabError if it has ended, with its last line: a failed start names its reason there."""
        code = self.popen.poll()
        if code is not None:
            lines = self.log_text().split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
            raise LabError(f"{self.name} ended with code {code}: {last} (log: {self.log})")

    def terminate(self, seconds: float = _STOP_SECONDS) -> int:
        """SIGTERM, after ``seconds`` SIGKILL; the exit code."""
        if self.running():
            self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()


def spawn(name: str, namespace: str, argv: Sequence[str], env: Mapping[str, str], log: Path) -> Process:
    """Start a program in a namespace, in a session of its own: a Ctrl-C is ours to pass on, in the right order."""
    inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
    with log.open("ab") as output:
        popen = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *argv],
            env={**inherited, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Process(name, popen, log)


def stop_all(processes: Sequence[Process]) -> None:
    """End them, the last started first; each may say its goodbyes while what it needs is still up."""
    for process in reversed(processes):
        process.terminate(_END_SECONDS)


def wait_until(condition: Callable[[], bool], what: str, needs: Sequence[Process] = (), seconds: float = 60) -> None:
    """Wait for a condition; ``POSTERN_TEST_PATIENCE`` times as long on a machine that is so much slower.

    Raises:
        LabError: one of ``needs`` ended meanwhile, or the time is up; the line names the log to read.
    """
    seconds *= float(os.environ.get(PATIENCE, "1"))
    deadline = time.monotonic() + seconds
    while not condition():
        for process in needs:
            process.check()
        if time.monotonic() > deadline:
            where = f" (log: {needs[-1].log})" if needs else ""
            raise LabError(f"{what}: not within {seconds:.0f} s{where}")
        time.sleep(_POLL_SECONDS)
