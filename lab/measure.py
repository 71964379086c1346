"""Measurements from the user's namespace: the first answer through a cold tunnel, and iperf3 in four ways."""

import json
from typing import Any, Final, Literal

from lab.errors import LabError
from lab.plan import RESOURCE
from lab.processes import wait_until
from lab.resource import PAGE
from lab.topology import Lab

PAGE_URL: Final = f"http://{RESOURCE.address}/"
PAGE_URL6: Final = f"http://[{RESOURCE.address6}]/"
# Fits the tunnel's MTU with IPv6 headers, so that no datagram is cut on the way.
_DATAGRAM_BYTES: Final = 1200
_PATIENCE_SECONDS: Final = 20

Direction = Literal["up", "down"]


def first_answer_ms(lab: Lab, url: str = PAGE_URL) -> float:
    """Fetch the page where nothing is set up yet: from the first packet sent to the first byte of the answer."""
    found = lab.logs / "page.html"
    seconds = lab.run(
        lab.user,
        ["curl", "-sSf", "--max-time", str(_PATIENCE_SECONDS), "-o", str(found), "-w", "%{time_starttransfer}", url],
    )
    if found.read_bytes() != PAGE:
        raise LabError(f"the page at {url} is not the resource's (it lies in {found})")
    return float(seconds) * 1000


def tcp_mbps(lab: Lab, direction: Direction, seconds: int = 3) -> float:
    """One TCP stream; what the receiver got, in Mbit/s."""
    return _received_mbps(_iperf(lab, direction, seconds, []))


def udp_mbps(lab: Lab, direction: Direction, rate_mbps: float, seconds: int = 3) -> float:
    """One UDP stream at a fixed rate; what the receiver got, in Mbit/s."""
    options = ["-u", "-b", f"{rate_mbps:.1f}M", "-l", str(_DATAGRAM_BYTES)]
    return _received_mbps(_iperf(lab, direction, seconds, options))


def _iperf(lab: Lab, direction: Direction, seconds: int, options: list[str]) -> dict[str, Any]:
    _wait_for_server(lab)
    reverse = ["-R"] if direction == "down" else []
    command = ["iperf3", "-J", "-c", RESOURCE.address, "-t", str(seconds), "--connect-timeout", "5000"]
    text = lab.run(lab.user, [*command, *reverse, *options], timeout=seconds + _PATIENCE_SECONDS)
    result: dict[str, Any] = json.loads(text)
    if "error" in result:
        raise LabError(f"iperf3 {' '.join(options)} {direction}: {result['error']}")
    return result


def _wait_for_server(lab: Lab) -> None:
    """Between two tests iperf3's server resets who comes too early: it must have said that it listens again."""
    servers = [process for process in lab.processes if process.name == "iperf3"]

    def idle() -> bool:
        text = servers[-1].log_text()
        return text.count("Server listening") > text.count("Accepted connection")

    if servers:
        wait_until(idle, "iperf3's server is idle", servers)


def _received_mbps(result: dict[str, Any]) -> float:
    end = result["end"]
    if "sum_received" in end and end["sum_received"]["bits_per_second"]:
        return float(end["sum_received"]["bits_per_second"]) / 1e6
    # Older iperf3 sums UDP once and leaves the losses to be taken off.
    return float(end["sum"]["bits_per_second"]) * (1 - float(end["sum"].get("lost_percent", 0)) / 100) / 1e6
