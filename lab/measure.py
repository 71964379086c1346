"""Measurements from the user's namespace: the first answer through a cold tunnel, iperf3 in four ways, round trips."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from lab.errors import LabError
from lab.plan import APP_NAME, RESOURCE
from lab.processes import wait_until
from lab.resource import PAGE
from lab.topology import Lab

PAGE_URL: Final = f"http://{RESOURCE.address}/"
PAGE_URL6: Final = f"http://[{RESOURCE.address6}]/"
NAME_URL: Final = f"http://{APP_NAME}/"
# Fits the tunnel's MTU with IPv6 headers, so that no datagram is cut on the way.
_DATAGRAM_BYTES: Final = 1200
_PATIENCE_SECONDS: Final = 20
_ROUND_TRIP: Final = re.compile(r" time=(\d+(?:\.\d+)?) ms$", re.MULTILINE)

Direction = Literal["up", "down"]
Protocol = Literal["tcp", "udp"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The page as it came: time from the first packet (of a name's query) to its first byte, and from which address."""

    milliseconds: float
    address: str


def first_answer_ms(lab: Lab, url: str = PAGE_URL) -> float:
    """Fetch the page where nothing is set up yet: from the first packet sent to the first byte of the answer."""
    return _fetch(lab, url).milliseconds


def answer_by_name(lab: Lab, family: Literal[4, 6]) -> Answer:
    """Fetch the page by the resource's name over one IP version."""
    return _fetch(lab, NAME_URL, f"-{family}")


def _fetch(lab: Lab, url: str, *flags: str) -> Answer:
    found = lab.logs / "page.html"
    command = ["curl", "-sSf", "--max-time", str(_PATIENCE_SECONDS), "-o", str(found), *flags]
    told = lab.run(lab.user, [*command, "-w", "%{time_starttransfer} %{remote_ip}", url])
    if found.read_bytes() != PAGE:
        raise LabError(f"the page at {url} is not the resource's (it lies in {found})")
    seconds, address = told.split()
    return Answer(float(seconds) * 1000, address)


@dataclass(frozen=True, slots=True)
class Load:
    """Streams of iperf3. UDP without a rate is as fast as it goes; ``socket_bytes`` None: the kernel's size.

    ``rate_mbps`` is each stream's; ``by_name``: to the resource's name, which the tunnel's ends translate.
    """

    protocol: Protocol
    direction: Direction
    seconds: int = 3
    rate_mbps: float | None = None
    ipv6: bool = False
    socket_bytes: int | None = None
    streams: int = 1
    datagram_bytes: int = _DATAGRAM_BYTES
    by_name: bool = False

    def arguments(self) -> list[str]:
        """What iperf3's client is called with."""
        address = RESOURCE.address6 if self.ipv6 else RESOURCE.address
        target = APP_NAME if self.by_name else address
        words = ["iperf3", "-J", "-c", target, "-t", str(self.seconds), "--connect-timeout", "5000"]
        words += ["-R"] if self.direction == "down" else []
        words += ["-P", str(self.streams)] if self.streams > 1 else []
        if self.protocol == "udp":
            rate = "0" if self.rate_mbps is None else f"{self.rate_mbps:.1f}M"
            words += ["-u", "-b", rate, "-l", str(self.datagram_bytes)]
        elif self.rate_mbps is not None:
            words += ["-b", f"{self.rate_mbps:.1f}M"]
        return words + ([] if self.socket_bytes is None else ["-w", str(self.socket_bytes)])


@dataclass(frozen=True, slots=True)
class Flow:
    """What iperf3 saw: Mbit/s and bytes as received; ``retransmits`` of TCP, datagrams ``sent`` and ``lost`` of UDP."""

    mbps: float
    received_bytes: int
    retransmits: int | None = None
    sent: int | None = None
    lost: int | None = None


def flow(lab: Lab, load: Load, source: str | None = None) -> Flow:
    """Run one stream between the user (or another namespace, ``source``) and the resource.

    Raises:
        LabError: iperf3 failed; the line carries what it said.
    """
    _wait_for_server(lab)
    text = lab.run(source or lab.user, load.arguments(), timeout=load.seconds + _PATIENCE_SECONDS)
    result: dict[str, Any] = json.loads(text)
    if "error" in result:
        raise LabError(f"iperf3 {load.protocol} {load.direction}: {result['error']}")
    return parse_flow(result, load.datagram_bytes)


@contextmanager
def flowing(lab: Lab, load: Load, source: str | None = None) -> Iterator[None]:
    """Streams that have begun when this is entered, and have come to their end when it is left.

    Raises:
        LabError: iperf3 failed.
    """
    _wait_for_server(lab)  # else its last stream would be taken for this one
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(flow, lab, load, source)
        wait_until(lambda: running.done() or not _is_idle(lab), "iperf3's stream has begun")
        yield
        running.result()


def round_trips_ms(lab: Lab, target: str, count: int, interval_ms: int, source: str | None = None) -> list[float]:
    """Ping so often from the user (or another namespace): a time for each answer that came."""
    command = ["ping", "-n", "-c", str(count), "-i", str(interval_ms / 1000), "-W", "1", target]
    return parse_round_trips(lab.run(source or lab.user, command, timeout=count * interval_ms + _PATIENCE_SECONDS))


def parse_round_trips(said: str) -> list[float]:
    """The times that ping printed, in ms."""
    return [float(found) for found in _ROUND_TRIP.findall(said)]


def parse_flow(result: dict[str, Any], datagram_bytes: int = _DATAGRAM_BYTES) -> Flow:
    """The sums of iperf3's JSON, whichever side was the receiver."""
    end = result["end"]
    summary = end.get("sum", {})
    if "lost_packets" not in summary:
        received = end["sum_received"]
        retransmits = end["sum_sent"].get("retransmits")
        return Flow(received["bits_per_second"] / 1e6, int(received["bytes"]), retransmits)
    # Older iperf3 has one sum for both sides. The receiver's packets are the highest number that it has seen: what was
    # still on its way at the end is neither lost nor received.
    received = end.get("sum_received", summary)
    lost = int(received["lost_packets"])
    arrived = max(0, int(received["packets"]) - lost) * datagram_bytes
    sent = int(end.get("sum_sent", summary)["packets"])
    return Flow(arrived * 8 / max(received["seconds"], 1e-3) / 1e6, arrived, sent=sent, lost=lost)


def tcp_mbps(lab: Lab, direction: Direction, seconds: int = 3) -> float:
    """One TCP stream; what the receiver got, in Mbit/s."""
    return flow(lab, Load("tcp", direction, seconds)).mbps


def udp_mbps(lab: Lab, direction: Direction, rate_mbps: float, seconds: int = 3) -> float:
    """One UDP stream at a fixed rate; what the receiver got, in Mbit/s."""
    return flow(lab, Load("udp", direction, seconds, rate_mbps)).mbps


def _wait_for_server(lab: Lab) -> None:
    """Between two tests iperf3's server resets who comes too early: it must have said that it listens again."""
    servers = [process for process in lab.processes if process.name == "iperf3"]
    if servers:
        wait_until(lambda: _is_idle(lab), "iperf3's server is idle", servers)


def _is_idle(lab: Lab) -> bool:
    text = next(process for process in reversed(lab.processes) if process.name == "iperf3").log_text()
    return text.count("Server listening") > text.count("Accepted connection")
