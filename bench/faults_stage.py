"""The faults of ``bench faults``, and the ping that sees them."""

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from lab import network
from lab.errors import LabError
from lab.measure import first_answer_ms
from lab.plan import CLIENT_INSIDE, RESOURCE, LabSettings, Nat, Underlay
from lab.processes import Process, wait_until
from lab.stack import Parts, Stack
from lab.topology import Lab

INTERVAL_SECONDS: Final = 0.05
_BEFORE_SECONDS: Final = 1.0
_ANSWER: Final = re.compile(r"^\[(\d+\.\d+)\] \d+ bytes from ", re.MULTILINE)
_MOVED: Final = range(101, 200)  # host parts of the client's addresses, one a move


@dataclass(frozen=True, slots=True)
class Fault:
    """``strike`` breaks something and says what mends it, as far as it does not mend itself."""

    text: str
    at_most: float  # ms
    watch_seconds: float
    strike: Callable[[Stack, int], None]


def measure(fault: Fault, parts: Parts, rounds: int) -> list[float]:
    """The longest silence of each round, in ms.

    Raises:
        LabError: the stack did not start, or nothing came back at all.
    """
    with Lab(LabSettings(Nat.SYMMETRIC, Nat.SYMMETRIC, Underlay.IPV4)) as lab:
        stack = Stack(lab, parts)
        stack.start()
        return [_round(fault, stack, number) for number in range(rounds)]


def longest_silence(said: str) -> float:
    """Of what ``ping -D`` printed, in ms.

    Raises:
        LabError: there are not two answers.
    """
    times = [float(found) for found in _ANSWER.findall(said)]
    if len(times) < 2:
        raise LabError("the ping was not answered")
    return max(later - earlier for earlier, later in pairwise(times)) * 1000


def _round(fault: Fault, stack: Stack, number: int) -> float:
    first_answer_ms(stack.lab)  # all is well
    with _pinging(stack.lab) as said:
        time.sleep(_BEFORE_SECONDS)
        fault.strike(stack, number)
        struck = time.time()
        time.sleep(fault.watch_seconds)
    times = [float(found) for found in _ANSWER.findall(said())]
    if not times or times[-1] < struck + fault.watch_seconds - 1:
        raise LabError(f"nothing comes back {fault.watch_seconds:.0f} s after: {fault.text}")
    return longest_silence(said())


@contextmanager
def _pinging(lab: Lab) -> Iterator[Callable[[], str]]:
    path = lab.logs / "ping.txt"
    command = ["ping", "-D", "-n", "-i", str(INTERVAL_SECONDS), RESOURCE.address]
    with path.open("w") as output:
        ping = subprocess.Popen(["ip", "netns", "exec", lab.user, *command], stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "bytes from" in path.read_text(), "the ping is answered")
        yield path.read_text
    finally:
        ping.send_signal(signal.SIGINT)
        ping.wait()


def _process(stack: Stack, name: str) -> Process:
    return next(process for process in reversed(stack.lab.processes) if process.name == name)


def _end(stack: Stack, name: str, number: signal.Signals) -> None:
    process = _process(stack, name)
    process.popen.send_signal(number)
    process.popen.wait()


def _portal_killed(stack: Stack, _number: int) -> None:
    _end(stack, "portal", signal.SIGKILL)
    time.sleep(1)
    stack.start_portal()


def _gateway_stopped(stack: Stack, _number: int) -> None:
    _end(stack, "gateway", signal.SIGTERM)
    stack.start_gateway()


def _gateway_killed(stack: Stack, _number: int) -> None:
    _end(stack, "gateway", signal.SIGKILL)
    stack.start_gateway()


def _relay_killed(stack: Stack, _number: int) -> None:
    _end(stack, "relay", signal.SIGKILL)
    stack.start_relay()


def _moved(stack: Stack, number: int) -> None:
    """The client's link has another address of the same network, and the same way out."""
    length = CLIENT_INSIDE.ipv4.network.prefixlen
    address = CLIENT_INSIDE.ipv4.network[_MOVED[number]]
    lines: Sequence[str] = (
        "ip address flush dev eth0",
        f"ip address add {address}/{length} dev eth0",
        f"ip route add default via {CLIENT_INSIDE.address}",
    )
    network.execute(stack.lab.client, ["sh", "-ec", "; ".join(lines)])


def _moved_and_told(stack: Stack, number: int) -> None:
    _moved(stack, number)
    _process(stack, "client").popen.send_signal(signal.SIGHUP)


# name for --only -> what is done, and what is wanted of it
FAULTS: Final = {
    "portal-killed": Fault("portal killed, back after 1 s", 100, 8, _portal_killed),
    "gateway-stopped": Fault("gateway stopped (SIGTERM), another at once", 800, 6, _gateway_stopped),
    "gateway-killed": Fault("gateway killed (-9), another at once", 3000, 8, _gateway_killed),
    "relay-killed": Fault("relay killed (-9), another at once", 700, 8, _relay_killed),
    "moved-and-told": Fault("client's address changes, SIGHUP", 150, 4, _moved_and_told),
    "moved": Fault("client's address changes", 500, 4, _moved),
}
