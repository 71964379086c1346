"""The demo's judgement and what it prints; the runs themselves need root, see tests/netns."""

import dataclasses
import io
import json

import pytest

from connectivity.settings import SettingsError
from lab import demo
from lab.counters import udp_error_count
from lab.demo import RUNS, judge
from lab.plan import Nat, Underlay
from lab.relay_metrics import RelayCounts, parse_counts
from lab.report import PICTURE, Progress, RunResult, as_json, as_table, paths, verdict

GOOD = RunResult(
    name="relayed",
    underlay="dual",
    path="PeerToRelay",
    first_answer_ms=612.3,
    ipv6_answer_ms=8.4,
    tcp_up_mbps=1234.5,
    tcp_down_mbps=1100.0,
    udp_up_mbps=600.1,
    udp_down_mbps=550.0,
    relayed_by_xdp=99_500,
    relayed_by_python=500,
    xdp_mode="native",
    udp_buffer_errors={"client": 0, "gateway": 0, "relay": 0, "portal": 0},
)


def test_good_run_has_no_problem() -> None:
    assert judge(GOOD, ebpf=True) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"path": "PeerToPeer"}, "the path is PeerToPeer"),
        ({"name": "direct", "path": "RelayToRelay"}, "the path is RelayToRelay"),
        ({"udp_buffer_errors": {"client": 3, "relay": 0}}, "3 UDP errors at the client"),
        ({"xdp_mode": "off"}, "the relay could not load XDP (its log says why; postern demo --no-ebpf does without)"),
        ({"relayed_by_python": 5_000}, "XDP forwarded 95.2% of the relayed packets, not 99%"),
    ],
)
def test_each_fault_is_named(change: dict[str, object], problem: str) -> None:
    assert judge(dataclasses.replace(GOOD, **change), ebpf=True) == [problem]  # type: ignore[arg-type]  # a table of fields


def test_without_ebpf_python_forwards_all() -> None:
    without = dataclasses.replace(GOOD, xdp_mode="off", relayed_by_xdp=0, relayed_by_python=100_000)
    assert judge(without, ebpf=False) == []
    assert judge(GOOD, ebpf=False) == ["XDP is native although it was to be off"]


def test_four_runs_two_ways_over_two_underlays() -> None:
    assert [run.key for run in RUNS] == ["relayed-ipv4", "direct-ipv4", "relayed-dual", "direct-dual"]
    for run in RUNS:
        kinds = {run.lab.client_nat, run.lab.gateway_nat}
        assert kinds == {Nat.SYMMETRIC if run.name == "relayed" else Nat.NONE}
        assert run.lab.direct_ipv6 == (run.name == "direct")
        assert run.lab.underlay in Underlay


def test_json_holds_every_run_by_the_names_of_its_fields() -> None:
    found = json.loads(json.dumps(as_json([GOOD], [])))
    assert found["ok"] is True
    assert found["runs"] == [dataclasses.asdict(GOOD)]
    assert as_json([], ["the relay broke"]) == {"ok": False, "runs": [], "problems": ["the relay broke"]}


def test_table_has_a_column_for_each_run_and_fits_a_terminal() -> None:
    faulty = dataclasses.replace(GOOD, udp_buffer_errors={"client": 7, "relay": 1})
    lines = as_table([GOOD, faulty, *[dataclasses.replace(GOOD, name="direct")] * 2]).splitlines()
    assert lines[0].split() == ["relayed", "relayed", "direct", "direct"]
    rows = {line[:26].strip(): line[26:].split() for line in lines}
    assert rows["path"] == ["PeerToRelay"] * 4
    assert rows["TCP up, Mbit/s"] == ["1,234"] * 4
    assert rows["UDP errors"] == ["0", "8", "0", "0"]
    assert max(map(len, [*lines, *PICTURE.splitlines()])) <= 80


def test_the_verdict_says_how_it_went_and_the_picture_which_way() -> None:
    direct = dataclasses.replace(GOOD, name="direct", path="PeerToPeer", relayed_by_xdp=0)
    said = verdict([GOOD, direct], [], 2)
    assert said.startswith("All runs went as they must")
    assert "by the relay" in said
    assert "straight" in said
    assert "straight" not in verdict([GOOD], [], 1)
    assert verdict([GOOD], ["the relay broke"], 4).startswith("NOT as it must: 1 of 4 runs")
    relayed, straight = paths([GOOD, GOOD, direct]).splitlines()
    assert "relay (XDP)" in relayed
    assert "[NAT]" not in straight
    python = paths([dataclasses.replace(GOOD, relayed_by_xdp=0)])
    assert "relay (Python)" in python
    assert max(map(len, (relayed, straight, python, *said.splitlines()))) <= 80


def test_progress_is_one_line_per_step() -> None:
    output = io.StringIO()
    Progress(output).say("starting the relay")
    assert output.getvalue().strip().endswith("s  starting the relay")


def test_lost_datagrams_are_counted_once() -> None:
    assert udp_error_count({"UdpRcvbufErrors": 5, "UdpInErrors": 5, "Udp6SndbufErrors": 2}) == 7


def test_relayed_packets_are_summed_over_both_directions() -> None:
    text = """# TYPE postern_relay_packets_total counter
postern_relay_packets_total{path="xdp",direction="to_peer"} 10
postern_relay_packets_total{path="xdp",direction="to_client"} 20
postern_relay_packets_total{path="python",direction="to_client"} 3
postern_relay_bytes_total{path="xdp",direction="to_client"} 9999
postern_relay_allocations 2
"""
    assert parse_counts(text) == RelayCounts(xdp=30, python=3)


def test_unknown_flags_and_runs_are_named_together() -> None:
    with pytest.raises(SettingsError, match="--fast is not a flag") as caught:
        demo.run(["--fast", "--only", "sideways"])
    assert "expected one of relayed-ipv4" in str(caught.value)
