"""``postern demo``: the whole stack in network namespaces, measured, and gone again.

Four runs, each in a lab of its own: relayed (both NATs symmetric, IPv6 between the ends blocked) and direct (no NAT),
over an IPv4 underlay and over a dual-stack one. Progress goes to stderr; a verdict in words, the paths and a table, or
with ``--json`` the JSON object and nothing else, to stdout. Exit code 0 only if every run took the path it had to take.
"""

import json
import sys
from dataclasses import dataclass
from typing import Final

from connectivity.errors import chain
from connectivity.printable import printable
from connectivity.settings import SettingsReader, one_of
from lab import measure
from lab.counters import udp_error_count
from lab.errors import LabError
from lab.machine import check_machine, leave_in_order
from lab.plan import APP_NAME, RESOURCE, LabSettings, Nat, Underlay
from lab.records import sweep
from lab.relay_metrics import RelayCounts, judge_offload
from lab.report import PICTURE, Progress, RunResult, as_json, as_table, paths, verdict
from lab.stack import Stack
from lab.topology import Lab


@dataclass(frozen=True, slots=True)
class DemoRun:
    """One of the four runs."""

    name: str
    lab: LabSettings

    @property
    def title(self) -> str:
        return f"{self.name} over {self.lab.underlay.value}"

    @property
    def key(self) -> str:
        return f"{self.name}-{self.lab.underlay.value}"


RUNS: Final = tuple(
    DemoRun(name, settings)
    for underlay in Underlay
    for name, settings in (
        ("relayed", LabSettings(Nat.SYMMETRIC, Nat.SYMMETRIC, underlay, direct_ipv6=False)),
        ("direct", LabSettings(underlay=underlay)),
    )
)


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """The demo's flags."""

    json: bool
    keep: bool
    ebpf: bool
    clean: bool
    only: str | None


def run(arguments: list[str]) -> int:
    """Run the demo. 0: all went as it must; 1: something failed, in one line on stderr."""
    settings = _read_settings(arguments)
    check_machine("the demo")
    leave_in_order()
    if settings.clean:
        print(f"removed {sweep(kept=True)} labs", file=sys.stderr)
        return 0
    progress = Progress()
    print(PICTURE, file=sys.stderr)
    results: list[RunResult] = []
    problems: list[str] = []
    chosen = [demo_run for demo_run in RUNS if settings.only in {None, demo_run.key}]
    try:
        for demo_run in chosen:
            keep = settings.keep and demo_run is chosen[-1]
            result, found = _one_run(demo_run, settings, progress, keep=keep)
            results.append(result)
            problems += found
    except LabError as error:
        problems.append(chain(error))
    if settings.json:
        print(json.dumps(as_json(results, problems)))
    elif results:
        print(verdict(results, problems, len(chosen)), paths(results), as_table(results), sep="\n\n")
    if problems:
        print(f"postern demo: {printable('; '.join(problems))}", file=sys.stderr)
    return 1 if problems else 0


def _read_settings(arguments: list[str]) -> DemoSettings:
    reader = SettingsReader("demo", arguments)
    settings = DemoSettings(
        json=reader.switch(None, "--json", "print one JSON object on stdout and nothing else there"),
        keep=reader.switch(None, "--keep", "leave the last run's lab up and say how to look around in it"),
        ebpf=not reader.switch(None, "--no-ebpf", "let the relay forward everything in Python"),
        clean=reader.switch(None, "--clean", "remove the labs that --keep left up, and nothing else"),
        only=reader.optional(None, "--only", one_of(*(demo_run.key for demo_run in RUNS)), None, "one of the runs"),
    )
    reader.finish()
    return settings


def _one_run(
    demo_run: DemoRun, settings: DemoSettings, progress: Progress, *, keep: bool
) -> tuple[RunResult, list[str]]:
    with Lab(demo_run.lab) as lab:
        try:
            stack = Stack(lab, ebpf=settings.ebpf)
            result = _measured(demo_run, lab, stack, progress)
            problems = judge(result, ebpf=settings.ebpf)
        except LabError as error:
            if settings.keep:
                lab.keep()
            raise LabError(f"{demo_run.title} failed (logs: {lab.logs})") from error
        if problems:
            lab.keep_logs()
        if keep:
            lab.keep()
            _say_how_to_look_around(lab)
        return result, [f"{demo_run.title}: {problem} (logs: {lab.logs})" for problem in problems]


def _measured(demo_run: DemoRun, lab: Lab, stack: Stack, progress: Progress) -> RunResult:
    progress.say(f"{demo_run.title}: network is up, starting the portal")
    stack.start_nameserver()
    stack.start_portal()
    progress.say(f"{demo_run.title}: starting the relay")
    stack.start_relay()
    progress.say(f"{demo_run.title}: starting gateway, resource and client")
    stack.start_gateway()
    stack.start_resource()
    stack.start_client()
    progress.say(f"{demo_run.title}: fetching {measure.NAME_URL} by its name, through the tunnel that is not there yet")
    first, second = measure.answer_by_name(lab, 4), measure.answer_by_name(lab, 6)
    for family, answer in (("IPv4", first), ("IPv6", second)):
        said = f"{APP_NAME} is {answer.address}, answered after {answer.milliseconds:.0f} ms"
        progress.say(f"{demo_run.title}: over {family} {said}")
    progress.say(f"{demo_run.title}: path {stack.path()}; iperf3, TCP")
    tcp_up, tcp_down = measure.tcp_mbps(lab, "up"), measure.tcp_mbps(lab, "down")
    progress.say(f"{demo_run.title}: TCP {tcp_up:,.0f} up, {tcp_down:,.0f} down; iperf3, UDP at half of it")
    udp_up, udp_down = measure.udp_mbps(lab, "up", tcp_up / 2), measure.udp_mbps(lab, "down", tcp_down / 2)
    counts = stack.relay_counts()
    errors = lab.udp_errors()
    return RunResult(
        name=demo_run.name,
        underlay=demo_run.lab.underlay.value,
        path=stack.path(),
        first_answer_ms=round(first.milliseconds, 1),
        ipv6_answer_ms=round(second.milliseconds, 1),
        tcp_up_mbps=round(tcp_up, 1),
        tcp_down_mbps=round(tcp_down, 1),
        udp_up_mbps=round(udp_up, 1),
        udp_down_mbps=round(udp_down, 1),
        relayed_by_xdp=counts.xdp,
        relayed_by_python=counts.python,
        xdp_mode=stack.xdp_mode(),
        udp_buffer_errors={role: udp_error_count(found) for role, found in errors.items()},
    )


def judge(result: RunResult, *, ebpf: bool) -> list[str]:
    """What is not as it has to be."""
    problems = []
    if (result.path == "PeerToPeer") != (result.name == "direct"):
        problems.append(f"the path is {result.path}")
    for role, count in result.udp_buffer_errors.items():
        if count:
            problems.append(f"{count} UDP errors at the {role}")
    counts = RelayCounts(result.relayed_by_xdp, result.relayed_by_python)
    problems += judge_offload(result.xdp_mode, counts, wanted=ebpf, relayed=result.name == "relayed")
    return problems


def _say_how_to_look_around(lab: Lab) -> None:
    inside = "ip netns exec"
    lines = [
        "The lab stays up. To look around:",
        f"  {inside} {lab.user} curl {measure.NAME_URL}",
        f"  {inside} {lab.user} dig {APP_NAME} AAAA",
        f"  {inside} {lab.user} iperf3 -c {RESOURCE.address}",
        f"  {inside} {lab.client} curl -s http://127.0.0.1:9100/",
        f"  {inside} {lab.relay} curl -s http://127.0.0.1:8080/metrics",
        f"  {inside} {lab.relay} tcpdump -ni eth0 udp",
        f"  {inside} {lab.client_nat} nft list ruleset",
        f"  tail -f {lab.logs}/*.log",
        "  postern demo --clean     (removes it)",
    ]
    print("\n".join(lines), file=sys.stderr)
