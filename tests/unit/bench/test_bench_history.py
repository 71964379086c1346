"""The file of runs: what was written is read again, what is no run is named."""

import json
from pathlib import Path

import pytest

from bench import history
from connectivity.errors import FatalError
from tests.unit.bench.bench_samples import sample_run


def whole(**change: object) -> str:
    line = {"format": 1, "time": "2026-03-01", "commit": "", "cells": [], "problems": [], "machine": {}, "terms": {}}
    return json.dumps(line | change)


def test_runs_come_back_as_they_were_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.jsonl"
    assert history.read(path) == []
    runs = [sample_run(1), sample_run(2, ["direct: gateway: UdpInErrors 3 · „quoted“\n"])]
    for run in runs:
        history.append(path, run)
    assert history.read(path) == runs
    assert len(path.read_text().splitlines()) == 2


def test_ratios_are_in_the_file_for_those_who_read_it_with_other_tools(tmp_path: Path) -> None:
    history.append(tmp_path / "h", sample_run())
    found = json.loads((tmp_path / "h").read_text())
    assert found["ratios"][0] == {"text": "direct IPv4: ours / plain veth", "up": 0.1, "down": 0.05}


def test_this_run_knows_its_time_and_machine() -> None:
    run = history.describe_run([], [], {"rounds": 3}, 0.07)
    assert run.time.endswith("+00:00")
    assert run.machine["processors"] >= 1
    assert run.machine["busy_before"] == 0.07
    assert run.terms == {"rounds": 3}


def test_empty_lines_and_later_formats_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "h"
    history.append(path, sample_run())
    path.write_text(path.read_text() + '\n{"format": 2, "everything": "else"}\n')
    assert history.read(path) == [sample_run()]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "7",
        "{}",
        '{"format": 1}',
        whole(time="yesterday"),
        whole(cells=[{"x": 1}]),
        whole(cells=[{"variant": "a", "stage": "full", "protocol": "tcp", "direction": "up", "mbps": "fast"}]),
        whole(cells=7),
    ],
)
def test_a_line_that_is_no_run_is_named_by_its_number(line: str, tmp_path: Path) -> None:
    path = tmp_path / "h"
    history.append(path, sample_run())
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(FatalError, match="line 2 is no run"):
        history.read(path)
