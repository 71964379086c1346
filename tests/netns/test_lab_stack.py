"""The whole stack of ours in a lab: with and without the offload, and what the demo promises.

The topology is drawn in ``lab.plan``.
"""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from pyroute2 import netns

from lab.plan import LabSettings, Nat
from lab.records import DIRECTORY
from lab.stack import Stack
from lab.topology import Lab
from lab.transfer import download, upload
from tests.children import ending

pytestmark = pytest.mark.root

RELAYED = LabSettings(Nat.SYMMETRIC, Nat.SYMMETRIC)
POSTERN = Path(sys.executable).with_name("postern")


def test_same_bytes_arrive_without_the_offload() -> None:
    with Lab(RELAYED) as lab:
        stack = Stack(lab, ebpf=False)
        stack.start()
        download(lab, 10_000_000)
        upload(lab, 10_000_000)
        assert stack.xdp_mode() == "off"
        counts = stack.relay_counts()
        assert counts.xdp == 0
        assert counts.python > 10_000


def run_ids() -> set[str]:
    return set(os.listdir(DIRECTORY)) if DIRECTORY.exists() else set()


def test_demo_prints_one_json_object_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [POSTERN, "demo", "--json", "--only", "relayed-ipv4"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ok"] is True
    (run,) = found["runs"]
    assert (run["name"], run["underlay"], run["path"]) == ("relayed", "ipv4", "RelayToRelay")
    assert run["relayed_by_xdp"] > 99 * run["relayed_by_python"]
    assert run["udp_buffer_errors"] == {"client": 0, "gateway": 0, "relay": 0, "portal": 0}
    assert min(run[f"{kind}_{way}_mbps"] for kind in ("tcp", "udp") for way in ("up", "down")) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    before = run_ids()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with ending(
        subprocess.Popen(
            [POSTERN, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN),  # as `nohup` and `&` start it
        )
    ) as demo:  # fmt: skip
        assert demo.stderr is not None
        for line in demo.stderr:
            if "starting the relay" in line:
                break
        (logs,) = tmp_path.iterdir()
        run_id = logs.name.split("-")[2]
        assert run_id in run_ids() - before
        demo.send_signal(number)
        assert demo.wait(60) == 128 + number
    assert run_id not in run_ids()
    assert not [name for name in netns.listnetns() if run_id in name]
    assert list(tmp_path.iterdir()) == []


def test_failing_demo_names_what_failed_and_where_the_log_lies(tmp_path: Path) -> None:
    broken = tmp_path / "postern"
    broken.write_text(f'#!/bin/sh\n[ "$1" = relay ] && echo "no relay today" >&2 && exit 1\nexec {POSTERN} "$@"\n')
    broken.chmod(0o755)
    script = (
        "import sys\nfrom pathlib import Path\nfrom lab import demo, stack\n"
        f"stack.postern_command = lambda: Path({str(broken)!r})\n"
        "sys.exit(demo.run(['--json', '--only', 'direct-ipv4']))"
    )
    logs = tmp_path / "logs"
    logs.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, "TMPDIR": str(logs)},
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    (kept,) = logs.iterdir()
    assert "direct over ipv4" in last
    assert "relay ended with code 1: no relay today" in last
    assert str(kept) in last
    assert json.loads(done.stdout)["ok"] is False
    assert (kept / "relay.log").read_text() == "no relay today\n"
