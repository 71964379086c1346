"""A relay is told to stop while another stands beside it: its clients move, give back what they had, and it ends.

What they send goes on meanwhile.
"""

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.plan import RESOURCE, LabSettings, Nat, Underlay
from lab.processes import wait_until
from lab.stack import Stack
from lab.topology import Lab
from tests.e2e.stage import is_within

pytestmark = pytest.mark.root

# Of which three pass until the portal believes that a relay has gone for good, and as much until the last is sure.
DRAIN_SECONDS = 60
ENDED_WITHIN = 30
# A tenth of a second each; the old path carries on until there is a new one.
LOST_AT_MOST = 2


def test_clients_move_to_another_relay_while_theirs_drains(tmp_path: Path) -> None:
    with Lab(LabSettings(Nat.SYMMETRIC, Nat.SYMMETRIC, Underlay.IPV4, relay_count=2)) as lab:
        stack = Stack(lab, drain_seconds=DRAIN_SECONDS)
        stack.start_nameserver()
        stack.start_portal()
        old = stack.start_relay()  # alone at first: the other one comes when this one is to go
        stack.start_gateway()
        stack.start_resource()
        stack.start_client()
        with pings(lab, tmp_path / "pings") as answers:
            assert is_within(lambda: len(answers()) > 5, 60)
            stack.start_relay(2)
            old.popen.send_signal(signal.SIGTERM)
            told = time.monotonic()
            wait_until(lambda: "Draining" in old.log_text(), "it drains", [old])
            wait_until(lambda: not old.running(), "it has ended", seconds=ENDED_WITHIN)
            print(f"drained within {time.monotonic() - told:.1f} s")
            assert old.popen.returncode == 0
            ended = len(answers())
            assert is_within(lambda: len(answers()) > ended + 10, 60)
            found = answers()
        lost = set(range(1, found[-1] + 1)) - set(found)
        assert len(lost) <= LOST_AT_MOST, sorted(lost)
        assert stack.path() == "RelayToRelay"
        for role in ("client", "gateway"):
            log = next(process for process in lab.processes if process.name == role).log_text()
            assert "Migrating connection to new relay" in log
            assert " ERROR " not in log


@contextmanager
def pings(lab: Lab, path: Path) -> Iterator[Callable[[], list[int]]]:
    """Ten packets a second through the tunnel; yields a function that lists the numbers of those answered."""
    argv = ["ip", "netns", "exec", lab.user, "ping", "-n", "-i", "0.1", RESOURCE.address]
    with path.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.DEVNULL)
        try:
            yield lambda: [int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", path.read_text())]
        finally:
            process.kill()
            process.wait()
