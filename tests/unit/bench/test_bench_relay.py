"""What the relays' benchmark is told, what it sends, and what it makes of its figures."""

import dataclasses
import json
import struct
from ipaddress import ip_address
from pathlib import Path

import pytest

from bench.relay import CHOICES, read_settings
from bench.relay_measure import LOADS, PROGRAM_LOADS, WAYS, Allocations, Figure, Latency, Load, Outcome, Terms
from bench.relay_program import ProgramTimes
from bench.relay_report import as_json, as_markdown, summarize, wishes
from bench.relay_stage import Variant
from bench.relay_traffic import MARK, Traffic, TrafficFlow
from connectivity.settings import SettingsError
from ebpf.oracle import ones_complement_sum

FIGURE = Figure(100_000, 50_000, 0.5, 10.0, 2.0, 0.0, 0.9, is_generator_bound=False)
COSTS = Allocations(10_000, 2000, 400, 6 << 10, 2500, 1.0)


def outcome(variant: Variant, figure: Figure = FIGURE, costs: Allocations = COSTS) -> Outcome:
    programs = dict.fromkeys(PROGRAM_LOADS, ProgramTimes(300, 200)) if variant is Variant.NATIVE else {}
    return Outcome(variant, dict.fromkeys(LOADS, figure), dict.fromkeys(WAYS, Latency(10, 90)), costs, programs)


def three() -> list[Outcome]:
    """Ours twice as fast in user space, five times by XDP, which takes a quarter of the processor's time."""
    native = dataclasses.replace(FIGURE, delivered_pps=250_000, process_us=0.0, kernel_us=3.0, program_ns=300)
    return [
        outcome(Variant.COTURN, costs=dataclasses.replace(COSTS, per_second=5000)),
        outcome(Variant.USER_SPACE, dataclasses.replace(FIGURE, delivered_pps=100_000)),
        outcome(Variant.NATIVE, dataclasses.replace(native, is_generator_bound=True)),
    ]


def test_flags_are_read() -> None:
    settings = read_settings(
        ["--rounds", "3", "--only", "xdp", "--rates", "1000,2000", "--allocations", "5", "--turnserver", "/opt/turn"]
    )
    assert (settings.rounds, settings.only, settings.turnserver) == (3, "xdp", Path("/opt/turn"))
    assert settings.terms == Terms(seconds=1.5, rates=(1000, 2000), allocations=5)


def test_all_problems_with_flags_are_told() -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings(["--rates", "fast", "--allocations", "0", "--only", "nothing"])
    for said in ("--rates is 'fast': expected packets/s such as 50000,100000", "--allocations is '0'", "--only is"):
        assert said in str(refused.value)


def test_the_choices_are_all_variants() -> None:
    assert sorted(variant for variants in CHOICES.values() for variant in variants) == sorted(Variant)


def test_only_what_reads_packets_is_offered_a_pace() -> None:
    terms = Terms(seconds=1, rates=(1000, 2000), allocations=1)
    assert terms.paces(Variant.COTURN) == terms.paces(Variant.USER_SPACE) == (1000, 2000)
    assert terms.paces(Variant.NATIVE) == terms.paces(Variant.GENERIC) == (None,)


@pytest.mark.parametrize("size", [20, 21, 1284])
def test_frames_are_packets_with_right_checksums(size: int) -> None:
    source, destination = ip_address("198.18.0.2"), ip_address("198.18.0.1")
    flow = TrafficFlow(20_001, 3478, b"\x40\x00\x00\x10")
    traffic = Traffic(2, b"\2" * 6, b"\4" * 6, source, destination, size, [flow])
    frame = traffic.frame(flow)
    packet = frame[14:]
    assert (frame[:6], frame[6:12], frame[12:14]) == (b"\4" * 6, b"\2" * 6, b"\x08\x00")
    assert len(packet) == 28 + size
    assert packet[28 : 28 + 4 + len(MARK)] == flow.head + MARK
    assert ones_complement_sum(packet[:20]) == 0xFFFF
    assert ones_complement_sum(packet[12:20] + b"\0\x11" + packet[24:26] + packet[20:]) == 0xFFFF
    assert (packet[12:16], packet[16:20]) == (source.packed, destination.packed)
    assert packet[20:24] == struct.pack("!HH", 20_001, 3478)


def test_medians_over_the_rounds() -> None:
    rounds = [
        outcome(Variant.COTURN, dataclasses.replace(FIGURE, delivered_pps=pps, is_generator_bound=bound))
        for pps, bound in ((1, True), (9, False), (5, True))
    ]
    (found,) = summarize(rounds)
    assert {figure.delivered_pps for figure in found.figures.values()} == {5}
    assert {figure.is_generator_bound for figure in found.figures.values()} == {True}
    assert found.allocations == COSTS


def test_ratios_stand_beside_what_is_wanted() -> None:
    found = {wish.text: wish for wish in wishes(three())}
    bulk, many = "to peer, 1280 B, 1 flow by 32", "to peer, 1280 B, 100 flows by 1"
    for text, measured, wanted, met in (
        (f"user space, packets/s: ours / coturn, {bulk}", 2.0, 2.0, True),
        (f"user space, packets/s: ours / coturn, {many}", 2.0, 1.0, True),
        (f"user space, packets per processor's second: ours / coturn, {bulk}", 1.0, 2.0, False),
        (f"XDP native, packets per processor's second: ours / coturn, {bulk}", 4.0, 4.0, True),
        (f"XDP native, packets/s: ours / coturn, {bulk}", 5.0, 4.0, True),
        (f"XDP native, process: ours / coturn, {bulk}", 0.0, 0.1, True),
        (f"XDP native, process and kernel: ours / coturn, {bulk}", 0.25, 1 / 3, True),
        (f"XDP native, program: ours / bare, {bulk}", 1.5, 2.0, True),
        (f"XDP native, program: ours / bare, {bulk}, partial checksums", 1.5, 2.0, True),
        ("allocations/s: ours / coturn", 0.4, 0.5, False),
        ("KB of RSS per idle allocation", 6.0, 8.0, True),
        ("ours, user space, packets/s: 10,000 allocations / few", 1.0, 0.9, True),
    ):
        assert (found[text].measured, found[text].wanted, found[text].is_met) == (measured, wanted, met), text
    assert found[f"XDP native, packets/s: ours / coturn, {bulk}"].note == "limited by the generator"
    assert found[f"user space, packets/s: ours / coturn, {bulk}"].note == ""


def test_a_relay_that_had_no_processor_was_not_at_its_limit() -> None:
    coturn, ours, *_ = three()
    waiting = outcome(Variant.USER_SPACE, dataclasses.replace(FIGURE, busy=0.2))
    notes = [
        {wish.note for wish in wishes([coturn, one]) if "packets/s: ours / coturn" in wish.text}
        for one in (ours, waiting)
    ]
    assert notes == [{""}, {"limited by the machine"}]


def test_without_coturn_only_ours_is_judged() -> None:
    texts = [wish.text for wish in wishes(three()[1:])]
    assert texts
    assert not [text for text in texts if "coturn" in text]


def test_tables_and_json_say_the_same() -> None:
    text = as_markdown(three())
    assert "| to peer, 1280 B, 1 flow by 32: coturn " in text
    assert "lost" in text
    assert "50.0%" in text
    told = json.loads(json.dumps(as_json(three())))
    assert len(told["figures"]) == 3 * len(LOADS)
    assert [one["bare_ns"] for one in told["programs"]] == [200] * len(PROGRAM_LOADS)
    assert len(told["allocations"]) == 3
    assert {wish["met"] for wish in told["wishes"]} == {True, False}
    one = told["figures"][0]
    assert Load(one["way"], one["payload"], one["flows"], one["burst"]) in LOADS
    assert one["loss"] == 0.5
