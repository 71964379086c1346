"""Measurements from the user's namespace: the first answer through a cold tunnel, and iperf3 in four ways."""

import json
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
    """One stream of iperf3. UDP without a rate is as fast as it goes; ``socket_bytes`` None: the kernel's size."""

    protocol: Protocol
    direction: Direction
    seconds: int = 3
    rate_mbps: float | None = None
    ipv6: bool = False
    socket_bytes: int | None = None

    def arguments(self) -> list[str]:
        """What iperf3's client is called with."""
        target = RESOURCE.address6 if self.ipv6 else RESOURCE.address
        words = ["iperf3", "-J", "-c", target, "-t", str(self.seconds), "--connect-timeout", "5000"]
        words += ["-R"] if self.direction == "down" else []
        if self.protocol == "udp":
            rate = "0" if self.rate_mbps is None else f"{self.rate_mbps:.1f}M"
            words += ["-u", "-b", rate, "-l", str(_DATAGRAM_BYTES)]
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
    return parse_flow(result)


def parse_flow(result: dict[str, Any]) -> Flow:
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
    arrived = max(0, int(received["packets"]) - lost) * _DATAGRAM_BYTES
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

    def idle() -> bool:
        text = servers[-1].log_text()
        return text.count("Server listening") > text.count("Accepted connection")

    if servers:
        wait_until(idle, "iperf3's server is idle", servers)
