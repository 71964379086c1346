"""Medians over rounds and ratios within a run; what may not be is a problem, in words."""

import pytest

from bench.measurement import (
    Measurement,
    Terms,
    describe_buffers,
    judge_buffers,
    judge_errors,
)
from bench.report import as_document, as_markdown
from bench.results import Cell, Ratio, quotient, ratios, summarize
from bench.variants import Variant, in_turn, possible
from connectivity.io.buffers import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES
from lab.counters import SocketBuffers
from lab.measure import Flow, Load
from lab.plan import Nat, Underlay
from lab.stack import Maker
from tests.unit.bench.bench_samples import DIRECT, RELAYED, UPSTREAM_DIRECT, VETH, both, tcp

TERMS = Terms(seconds=1, udp_share=40, overload=False)
LARGE = SocketBuffers("0.0.0.0", 52625, RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES)
LISTENING = SocketBuffers("0.0.0.0", 3478, RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES)


def measured(mbps: float, retransmits: int, cpu: float) -> Measurement:
    load = Load("tcp", "up")
    return Measurement("x", "full", load, Flow(mbps, 1, retransmits), {"stack": retransmits}, {"client": cpu})


def test_a_cell_is_the_median_of_the_rounds() -> None:
    (cell,) = summarize([measured(100, 7, 1.0), measured(900, 1, 9.0), measured(200, 2, 2.0)])
    assert cell == Cell(
        "x", "full", "tcp", "up", 200, retransmits=2, lost_in={"stack": 2}, cpu_s_per_gb={"client": 2.0}
    )


def test_counts_of_two_rounds_stay_whole_numbers_and_what_nobody_counted_stays_unknown() -> None:
    (cell,) = summarize([measured(100, 1, 1.0), measured(200, 4, 2.0)])
    assert (cell.mbps, cell.retransmits, cell.sent) == (150, 1, None)


def test_ratios_are_told_where_both_sides_were_measured() -> None:
    cells = [*both(VETH, 10_000, 8000), *both(DIRECT, 1000, 400), *both(RELAYED, 500, 300)]
    assert ratios(cells) == [
        Ratio("direct IPv4: ours / plain veth", 0.1, 0.05),
        Ratio("relayed IPv4: ours / plain veth", 0.05, 0.0375),
        Ratio("IPv4: ours relayed / ours direct", 0.5, 0.75),
    ]
    cells += both(UPSTREAM_DIRECT, 500, 800)
    assert Ratio("direct IPv4: ours / upstream's", 2.0, 0.5) in ratios(cells)


def test_nothing_is_divided_by_zero_or_by_what_is_missing() -> None:
    assert quotient([*both(DIRECT, 5, 5), *both(VETH, 0, 5)], DIRECT, VETH) is None
    assert quotient([*both(DIRECT, 5, 5), tcp(VETH, "up", 5)], DIRECT, VETH) is None
    assert ratios([]) == []


def test_every_error_has_its_role_and_its_counter() -> None:
    errors = {"client": {}, "gateway": {"UdpRcvbufErrors": 3, "UdpInErrors": 3}, "relay": {"Udp6SndbufErrors": 1}}
    assert judge_errors(errors) == ["gateway: UdpInErrors 3, UdpRcvbufErrors 3", "relay: Udp6SndbufErrors 1"]
    assert judge_errors({"client": {}}) == []


def test_sockets_with_what_they_asked_for_are_no_problem() -> None:
    assert judge_buffers({"client": [LARGE, LARGE], "gateway": [LARGE], "relay": [LISTENING]}, TERMS) == []


@pytest.mark.parametrize("role", ["client", "gateway", "relay"])
def test_a_socket_with_less_than_it_asked_for_or_none_at_all_is_a_problem(role: str) -> None:
    good = {"client": [LARGE], "gateway": [LARGE], "relay": [LISTENING]}
    small = SocketBuffers("0.0.0.0", good[role][0].port, 212_992, SEND_BUFFER_BYTES)
    (problem,) = judge_buffers({**good, role: [small]}, TERMS)
    assert problem.startswith(f"{role}: socket 0.0.0.0:{small.port} was given 212992 receive and")
    (problem,) = judge_buffers({**good, role: []}, TERMS)
    assert problem == f"{role}: no socket on port {small.port}"


def test_buffers_are_told_in_one_line_a_role() -> None:
    (line,) = describe_buffers({"client": [LARGE, SocketBuffers("[::]", 49152, 1, 2), LARGE], "portal": []})
    many = f"2 with {RECEIVE_BUFFER_BYTES} receive and {SEND_BUFFER_BYTES} send"
    assert line == f"client: UDP socket buffers in bytes: {many}, 1 with 1 receive and 2 send"


def test_iperf3_asks_for_no_more_than_the_kernel_grants() -> None:
    assert TERMS.iperf3_socket_bytes is None
    assert TERMS.within({"rmem_max": 212_992, "wmem_max": 100_000}).iperf3_socket_bytes == 100_000
    assert TERMS.within({"rmem_max": 1 << 30, "wmem_max": 1 << 30}).iperf3_socket_bytes == 8 << 20


def test_tables_say_where_datagrams_were_lost() -> None:
    where = {"stack": 0, "tun": 1200, "iperf3": 34}
    flood = Cell(DIRECT.name, "overload", "udp", "down", 321.0, sent=20_000, lost=1000, lost_in=where)
    still = Cell(DIRECT.name, "overload", "udp", "up", 55.0, sent=7, lost=0, lost_in=dict.fromkeys(where, 0))
    text = as_markdown([*both(DIRECT, 1000, 400), flood])
    (row,) = (line for line in text.splitlines() if "direct IPv4, ours, down" in line)
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["321", "20,000", "5.00 %", "0", "1,200", "34"]
    assert "paced" not in text  # no rows, no table
    short = rows(as_document([*both(DIRECT, 1000, 400), flood, still]))
    assert ["direct IPv4, ours", "55 · 321", "7 · 20,000", "0.00 % · 5.00 %", "- · TUN"] in short


def test_shares_of_plain_veth_stand_beside_the_speeds_where_it_was_measured() -> None:
    cells = both(DIRECT, 1000, 25)
    assert ["direct IPv4, ours", "1,000 · 25", "-", "0 · 0"] in rows(as_document(cells))
    found = rows(as_document([*both(VETH, 10_000, 8000), *cells]))
    assert ["plain veth IPv4", "10,000 · 8,000", "-", "0 · 0"] in found
    assert ["direct IPv4, ours", "1,000 · 25", "10 % · 0.3 %", "0 · 0"] in found


def test_rounds_interleave_the_variants_and_each_begins_with_another() -> None:
    order: list[Variant] = []

    def once(variant: Variant) -> int:
        order.append(variant)
        return len(order)

    found = in_turn([VETH, DIRECT, RELAYED], 2, once)
    assert order == [VETH, DIRECT, RELAYED, DIRECT, RELAYED, VETH]
    assert found == {VETH: [1, 6], DIRECT: [2, 4], RELAYED: [3, 5]}
    assert in_turn([], 2, once) == {}


def test_variants_with_upstreams_programs_need_them() -> None:
    assert possible([DIRECT, UPSTREAM_DIRECT], {}) == [DIRECT]


def test_each_variant_has_its_own_name_and_a_network_that_forces_its_path() -> None:
    variants = [
        Variant(kind, ends, relay, ebpf, ipv6)
        for kind in ("direct", "relayed")
        for ends in Maker
        for relay in (Maker if kind == "relayed" else [Maker.OURS])
        for ebpf in ([True, False] if (kind, relay) == ("relayed", Maker.OURS) else [True])
        for ipv6 in (False, True)
    ]
    assert len({variant.name for variant in variants}) == len(variants)
    assert not Variant("direct", ipv6=True).network.direct_ipv4
    relayed = Variant("relayed", ipv6=True).network
    assert (relayed.client_nat, relayed.underlay, relayed.direct_ipv6) == (Nat.SYMMETRIC, Underlay.DUAL, False)


def rows(text: str) -> list[list[str]]:
    """The cells of all tables."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
