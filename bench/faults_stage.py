"""The faults of ``bench faults``, and what sees them: a ping, or fetches by one connection after another."""

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
from lab.measure import PAGE_URL, first_answer_ms
from lab.plan import CLIENT_INSIDE, RESOURCE, LabSettings, Nat, Underlay, gateway_role
from lab.processes import Process, wait_until
from lab.stack import Parts, Stack
from lab.topology import Lab

INTERVAL_SECONDS: Final = 0.05
FETCH_SECONDS: Final = 0.5  # after which the program connects again
_BEFORE_SECONDS: Final = 1.0
_ANSWER: Final = re.compile(r"^\[(\d+\.\d+)\] \d+ bytes from ", re.MULTILINE)
_PING: Final = ("ping", "-D", "-n", "-i", str(INTERVAL_SECONDS), RESOURCE.address)
_CURL: Final = f"curl -sf -o /dev/null --max-time {FETCH_SECONDS} -w '%{{size_download}} bytes from' {PAGE_URL}"
_FETCHES: Final = f'while :; do said=$({_CURL}) && echo "[$EPOCHREALTIME] $said it"; sleep {INTERVAL_SECONDS}; done'
_FETCH: Final = ("bash", "-c", _FETCHES)
_GATEWAYS: Final = range(1, 3)  # where there are two
_MOVED: Final = range(101, 200)  # host parts of the client's addresses, one a move


@dataclass(frozen=True, slots=True)
class Fault:
    """``strike`` breaks something and mends it as far as it does not mend itself; ``repair`` does the rest later."""

    text: str
    at_most: float  # ms
    watch_seconds: float
    strike: Callable[[Stack, int], None]
    gateways: int = 1  # of the site; with more than one a program fetches, as no answer to a ping can move
    repair: Callable[[Stack], None] = lambda _: None


def measure(fault: Fault, parts: Parts, rounds: int) -> list[float]:
    """The longest silence of each round, in ms.

    Raises:
        LabError: the stack did not start, or nothing came back at all.
    """
    with Lab(LabSettings(Nat.SYMMETRIC, Nat.SYMMETRIC, Underlay.IPV4, gateway_count=fault.gateways)) as lab:
        stack = Stack(lab, parts)
        stack.start()
        return [_round(fault, stack, number) for number in range(rounds)]


def longest_silence(said: str) -> float:
    """Of what ``ping -D`` printed, or the program that fetches, in ms.

    Raises:
        LabError: there are not two answers.
    """
    times = [float(found) for found in _ANSWER.findall(said)]
    if len(times) < 2:
        raise LabError("nothing was answered")
    return max(later - earlier for earlier, later in pairwise(times)) * 1000


def _round(fault: Fault, stack: Stack, number: int) -> float:
    first_answer_ms(stack.lab)  # all is well
    with _asking(stack.lab, _PING if fault.gateways == 1 else _FETCH) as said:
        time.sleep(_BEFORE_SECONDS)
        fault.strike(stack, number)
        struck = time.time()
        time.sleep(fault.watch_seconds)
    times = [float(found) for found in _ANSWER.findall(said())]
    if not times or times[-1] < struck + fault.watch_seconds - 1:
        raise LabError(f"nothing comes back {fault.watch_seconds:.0f} s after: {fault.text}")
    fault.repair(stack)
    return longest_silence(said())


@contextmanager
def _asking(lab: Lab, command: Sequence[str]) -> Iterator[Callable[[], str]]:
    """The user's program meanwhile; what it has printed so far."""
    path = lab.logs / "answers.txt"
    with path.open("w") as output:
        asking = subprocess.Popen(["ip", "netns", "exec", lab.user, *command], stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "bytes from" in path.read_text(), "the user is answered")
        yield path.read_text
    finally:
        asking.terminate()
        asking.wait()


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


def _one_stopped(stack: Stack, _number: int) -> None:
    _end(stack, _gateway_in_use(stack), signal.SIGTERM)


def _one_killed(stack: Stack, _number: int) -> None:
    _end(stack, _gateway_in_use(stack), signal.SIGKILL)


def _gateway_in_use(stack: Stack) -> str:
    return next(role for role in map(gateway_role, _GATEWAYS) if stack.status(role)["connections"])


def _gateways_whole(stack: Stack) -> None:
    for number in _GATEWAYS:
        if _process(stack, gateway_role(number)).popen.poll() is not None:
            stack.start_gateway(number)


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
    "one-gateway-stopped": Fault(
        "one of two gateways stopped, new connections", 1000, 4, _one_stopped, len(_GATEWAYS), _gateways_whole
    ),
    "one-gateway-killed": Fault(
        "one of two gateways killed, new connections", 4000, 10, _one_killed, len(_GATEWAYS), _gateways_whole
    ),
    "relay-killed": Fault("relay killed (-9), another at once", 700, 8, _relay_killed),
    "moved-and-told": Fault("client's address changes, SIGHUP", 150, 4, _moved_and_told),
    "moved": Fault("client's address changes", 500, 4, _moved),
}
