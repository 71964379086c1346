"""What the tunnel's benchmark makes of its figures: searches, medians, judgement, and that all forms say the same."""

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import documents, tunnel
from bench.figures import LONGEST_TEXT, Figure
from bench.presealed import lost_datagrams
from bench.quiet import share_between
from bench.tunnel import read_settings
from bench.tunnel_measure import CPU, CPU_US, MBPS, P50, P99, PPS, Load, is_whole, loss_free, percentile
from bench.tunnel_report import CROWD, IDLE, Findings, as_tables, draw, judge
from bench.tunnel_stage import SUBJECTS, Programs, Subject
from connectivity.errors import FatalError
from lab.measure import Direction, Flow

WAYS: tuple[Direction, ...] = ("up", "down")


@pytest.fixture(autouse=True)
def _no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSTERN_TEST_PEERS", raising=False)


def path_of(capacity: float, offers: list[float | None]) -> Callable[[float | None], Flow]:
    """A path that loses whatever is above its capacity, and half of what it could carry when it is flooded."""

    def offer(rate: float | None) -> Flow:
        offers.append(rate)
        if rate is not None and rate <= capacity:
            return Flow(rate, 1, sent=1000, lost=0)
        return Flow(capacity / 2, 1, sent=1000, lost=500)

    return offer


@pytest.mark.parametrize("capacity", [80.0, 333.0, 1000.0])
def test_the_rate_without_loss_is_found_from_what_a_flood_left(capacity: float) -> None:
    offers: list[float | None] = []
    found = loss_free(path_of(capacity, offers))
    assert 0.85 * capacity <= found.mbps <= capacity
    assert offers[0] is None
    assert len(offers) == 5


def test_a_flood_of_which_nothing_was_lost_is_the_answer() -> None:
    flood = Flow(900.0, 1, sent=1000, lost=1)
    assert loss_free(lambda _: flood) is flood


def test_a_path_that_loses_at_any_rate_carries_nothing_whole() -> None:
    assert loss_free(lambda _: Flow(50.0, 1, sent=1000, lost=2)).mbps == 0
    assert not is_whole(Flow(0.0, 0, sent=0, lost=0))


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(200, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99), percentile([7.0], 99)) == (100, 198, 7)


def findings(**others: float) -> Findings:
    """Ours carry 1,000 both ways; others so many times that. Three rounds, one of them far off."""
    found = Findings()
    scales = {"direct": 1.0, **{name.replace("_", "-"): scale for name, scale in others.items()}}
    for key, scale in scales.items():
        for factor in (1.0, 1.0, 17.0):
            mbps = 1000 * scale * factor
            for way in WAYS:
                for load in (Load("tcp", way), Load("tcp", way, 4), Load("udp", way, 1200)):
                    found.add(key, load, {MBPS: mbps, PPS: mbps * 100})
                found.add(key, Load("tcp", way), {CPU: 8 / scale, f"{CPU} client": 5 / scale, f"{CPU} gateway": 3.0})
        found.add(key, IDLE, {P50: 0.5 / scale, P99: 1.0})
        found.add(key, Load("loaded"), {P50: 1.0, P99: 3.0 / scale})
    return found


def judged(found: Findings) -> dict[str, Figure]:
    return {figure.text: figure for figure in judge(found)}


def test_medians_are_judged_against_each_of_the_others() -> None:
    figures = judged(findings(**{"2026": 1.2, "wireguard_go": 1.0, "relayed": 0.96, "2026_relayed": 0.25}))
    assert figures["1 stream up: ours / upstream's of 2026"].value == pytest.approx(1 / 1.2)
    assert figures["1 stream up: ours / upstream's of 2026"].verdict == "not"
    assert figures["4 streams down: ours / wireguard-go"].verdict == "ok"
    assert figures["1 stream down: relayed by XDP / direct"].verdict == "ok"
    assert figures["1 stream up: relayed, ours / 2026's"].value == pytest.approx(3.84)
    assert figures["CPU/GB up: ours / upstream's of 2026"].verdict == "not"
    assert figures["UDP 1200 B up: ours / 2026's"].verdict == "not"
    assert figures["RTT at half load, p99: ours / wireguard-go"].verdict == "ok"


def test_without_upstream_only_wireguard_go_judges() -> None:
    figures = judged(findings(wireguard_go=2.0))
    assert not [text for text in figures if "2026" in text]
    assert figures["1 stream up: ours / wireguard-go"].verdict == "not"
    assert figures["CPU/GB up: ours / wireguard-go"].verdict == ""  # told
    assert judged(findings()) == {}


def test_round_trips_are_held_against_the_bare_link() -> None:
    found = findings(veth=12.5)
    assert judged(found)["RTT idle, p50: added to plain veth"].value == pytest.approx(0.46)
    assert judged(found)["RTT idle, p50: added to plain veth"].verdict == "ok"


def test_two_workers_are_held_against_one() -> None:
    found = Findings()
    for key, pps, cost in (("crowd-1", 100_000.0, 4.0), ("crowd-2", 160_000.0, 4.6)):
        found.add(key, CROWD, {MBPS: pps * 1280 * 8 / 1e6, PPS: pps, CPU_US: cost})
    figures = judged(found)
    assert (figures["2 workers / 1: packets/s"].value, figures["2 workers / 1: packets/s"].verdict) == (1.6, "ok")
    assert figures["2 workers / 1: CPU per packet"].verdict == "not"
    assert "| gateway of 64 clients, 2 workers |           1,638 |   160,000 |" in as_tables(found)
    crowd, other = (next(one for one in SUBJECTS if one.key == key) for key in ("crowd-1", "direct"))
    assert [CROWD.suits(crowd), CROWD.suits(other), IDLE.suits(crowd), IDLE.suits(other)] == [True, False, False, True]


def test_what_the_kernel_lost_is_read_by_its_name() -> None:
    snmp = "Ip: A B\nIp: 1 2\nUdp: InDatagrams InErrors OutDatagrams\nUdp: 5 42 7\nUdpLite: InErrors\nUdpLite: 9\n"
    assert lost_datagrams(snmp) == 42


def test_every_wanted_figure_has_room_in_its_row() -> None:
    everything = {subject.key.replace("-", "_"): 1.0 for subject in SUBJECTS if subject.key != "direct"}
    assert max(len(figure.text) for figure in judge(findings(**everything))) <= LONGEST_TEXT


def test_tables_name_every_subject_and_leave_out_what_nobody_measured() -> None:
    text = as_tables(findings(wireguard_go=0.5))
    (row,) = (line for line in text.splitlines() if line.startswith("| ours, direct") and "1,000" in line)
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["1,000 · 1,000"] * 3
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["wireguard-go", "10.0 · 10.0", "3.0 · 3.0", "16.0 · 16.0"] in rows
    assert ["ours, direct", "0.50 · 1.00", "1.00 · 3.00"] in rows
    assert "TCP 8" not in text
    assert "half load down" not in text


def test_what_a_subject_lacks_is_a_dash() -> None:
    found = findings()
    found.add("veth", Load("tcp", "up"), {MBPS: 5000.0})
    (row,) = (line for line in as_tables(found).splitlines() if "plain veth" in line and "5,000" in line)
    assert "5,000 · -" in row


def test_picture_and_table_do_not_contradict_each_other() -> None:
    found = findings(**{"2026": 1.234, "wireguard_go": 0.777})
    root = ElementTree.fromstring(draw(found, "a subtitle"))
    words = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    table = as_tables(found).split("Packets/s")[0]
    for key in ("direct", "wireguard-go", "2026"):
        name = next(subject.name for subject in SUBJECTS if subject.key == key)
        drawn = [text.removesuffix(f" {name}") for text in words if text.endswith(f" {name}")]
        assert len(drawn) == 6  # two loads of TCP and one of UDP, both ways
        (row,) = (line for line in table.splitlines() if line.startswith(f"| {name} "))
        assert sorted(drawn) == sorted(re.findall(r"[\d,]+(?= · | \|)", row))
    assert "a subtitle" in words


def test_a_machine_is_as_busy_as_its_processors_were_meanwhile() -> None:
    before = "cpu  100 0 50 1000 10 0 0 5 0 0\ncpu0 1 2 3\n"
    assert share_between(before, "cpu  140 0 60 1130 20 0 0 15 9 9\n") == pytest.approx(0.3)
    assert share_between(before, before) == 1.0  # no time has gone by: nothing is known to be free
    with pytest.raises(ValueError, match="all processors"):
        share_between(before, "cpu0 1 2 3\n")


@pytest.mark.parametrize(
    ("problem", "is_ours"),
    [
        ("gateway of 64 clients, 2 workers: broken", True),
        ("ours, direct: broken", True),
        ("wireguard-go: broken", False),
        ("upstream's of 2026, direct: broken", False),
    ],
)
def test_what_others_cannot_do_is_no_failure_of_ours(
    monkeypatch: pytest.MonkeyPatch, problem: str, is_ours: bool
) -> None:
    for name in ("check_machine", "leave_in_order"):
        monkeypatch.setattr(tunnel, name, lambda *_: None)
    monkeypatch.setattr(documents, "busy_share", lambda: 0.0)
    monkeypatch.setattr(tunnel, "_measure", lambda _: (findings(), [problem]))
    if is_ours:
        with pytest.raises(FatalError, match="broken"):
            tunnel.run([])
    else:
        assert tunnel.run([]) == 0


def test_by_default_what_something_is_wanted_of_is_measured_and_all_if_asked_for() -> None:
    settings = read_settings([])
    assert {"veth", "direct", "relayed", "wireguard-go", "2026", "2026-relayed"} <= set(settings.only)
    assert not {"name", "1-worker", "2-workers"} & set(settings.only)
    assert settings.rounds == 5
    everything = read_settings(["--all"])
    assert everything.only == tuple(subject.key for subject in SUBJECTS)
    assert "udp200" in everything.loads
    assert read_settings(["--all", "--only", "veth,name"]).only == ("veth", "name")


def test_who_lacks_its_programs_is_left_out() -> None:
    ends = {"firezone-headless-client": Path("c"), "firezone-gateway": Path("g")}
    programs = Programs({"2026": ends})

    def allowed(key: str) -> bool:
        subject: Subject = next(one for one in SUBJECTS if one.key == key)
        return programs.allow(subject)

    assert [allowed(key) for key in ("veth", "direct", "2026")] == [True, True, True]
    assert [allowed(key) for key in ("2026-relayed", "2025", "wireguard-go")] == [False, False, False]
