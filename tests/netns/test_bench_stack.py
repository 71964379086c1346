"""The benchmark that CI runs: green with the buffers that the services ask for, red when they are too small.

One path is enough here: ``.ci/run`` has all of them.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

POSTERN = Path(sys.executable).with_name("postern")

pytestmark = pytest.mark.root


def bench(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    logs = tmp_path / "logs"
    logs.mkdir()
    environment = {**os.environ, "TMPDIR": str(logs), "POSTERN_TEST_PEERS": "none"}
    command = [str(POSTERN), "bench", "stack", "--only", "direct-ipv4", "--seconds", "1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280, env=environment)
    assert list(logs.iterdir()) == []
    return done


def test_stack_loses_nothing_with_the_buffers_that_it_asks_for(tmp_path: Path) -> None:
    kept, drawn = tmp_path / "history.jsonl", tmp_path / "picture.svg"
    done = bench(tmp_path, "--history", str(kept), "--svg", str(drawn))
    assert done.returncode == 0, done.stderr
    (line,) = kept.read_text().splitlines()
    found = json.loads(line)
    assert found["problems"] == []
    cells = [cell for cell in found["cells"] if "our ends" in cell["variant"]]
    assert {(cell["stage"], cell["protocol"], cell["direction"]) for cell in cells} == {
        (stage, protocol, way)
        for stage, protocol in (("full", "tcp"), ("paced", "udp"), ("overload", "udp"))
        for way in ("up", "down")
    }
    for cell in cells:
        assert cell["mbps"] > 0
        assert cell["cpu_s_per_gb"]["client"] > 0
        assert cell["cpu_s_per_gb"]["gateway"] > 0
        assert set(cell["lost_in"]) == {"stack", "tun", "iperf3"}
        assert cell["stage"] == "overload" or cell["lost_in"]["stack"] == 0
    assert ElementTree.parse(drawn).getroot().tag.endswith("svg")
    assert "with 134217728 receive and 16777216 send" in done.stderr  # the effective sizes, from the kernel


def test_too_small_buffers_make_it_fail_in_one_line(tmp_path: Path) -> None:
    """4096 bytes are less than one run of datagrams; SO_RCVBUFFORCE grants small sizes as it grants large ones."""
    kept = tmp_path / "history.jsonl"
    done = bench(tmp_path, "--receive-buffer", "4096", "--no-overload", "--history", str(kept))
    assert done.returncode == 1, done.stderr
    assert "with 4096 receive and 16777216 send" in done.stderr
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("postern bench: "))
    assert re.search(r"direct, our ends: gateway: UdpInErrors [1-9]\d*, UdpRcvbufErrors [1-9]", said)
    assert json.loads(kept.read_text())["problems"] != []
    assert "Traceback" not in done.stderr
