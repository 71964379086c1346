"""The benchmark of the tunnel from end to end, once and short: ours, and wireguard-go in the same places."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.presealed import BURST, presealed
from lab.plan import LabSettings
from lab.stack import Stack
from lab.topology import Lab

pytestmark = pytest.mark.root


def test_ours_and_wireguard_go_are_measured_by_turns(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    kept, drawn = tmp_path / "figures.json", tmp_path / "picture.svg"
    command = [str(Path(sys.executable).with_name("postern")), "bench", "tunnel"]
    command += ["--only", "direct,wireguard-go", "--loads", "rtt", "--rounds", "1", "--seconds", "1"]
    environment = {**os.environ, "TMPDIR": str(logs), "POSTERN_TEST_PEERS": "none"}
    done = subprocess.run(
        [*command, "--json", str(kept), "--svg", str(drawn)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert list(logs.iterdir()) == []
    found = json.loads(kept.read_text())
    assert found["problems"] == []
    for key in ("direct", "wireguard-go"):
        loads = found["subjects"][key]["loads"]
        assert set(loads) == {"TCP 1 up", "RTT idle", "RTT loaded up"}
        assert loads["TCP 1 up"]["Mbit/s"]["median"] > 0
        costs = [loads["TCP 1 up"][f"CPU s/GB {role}"]["median"] for role in ("client", "gateway")]
        assert min(costs) > 0
        assert loads["TCP 1 up"]["CPU s/GB"]["median"] == pytest.approx(sum(costs))
        assert 0 < loads["RTT idle"]["RTT p50 ms"]["median"] <= loads["RTT idle"]["RTT p99 ms"]["median"]
    assert "RTT at half load, p99: ours / wireguard-go" in done.stdout
    assert ElementTree.parse(drawn).getroot().tag.endswith("svg")


def test_what_a_crowd_has_sealed_before_arrives_whole_and_is_counted() -> None:
    with Lab(LabSettings()) as lab:
        stack = Stack(lab)
        stack.start()
        with presealed(stack, 3) as load:
            for _ in range(2):  # their counters go on
                arrived = load.flood(7)
                assert (arrived.packets, arrived.sent) == (9 * BURST, 9 * BURST)  # each client as often as the others
                assert arrived.per_second > 0
