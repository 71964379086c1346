"""coturn's own test programs against a stand-alone relay: every transport, method and family, and nothing is lost.

They all run at the same time, because each spends its time waiting between its packets. Left out is -Z: Debian's
uclient 4.6.1 asks for the second family by 0x8032, a number of no standard (RFC 8656 §18.11: 0x8000).
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import pytest

from tests.interop.turn_stage import PASSWORD, SECRET, TLS_PORT, USER, TurnStage

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]  # the first one may have to install programs

MESSAGES: Final = 200
# Their sockets hold less than what comes in a tenth of a second, so they must not wait for the processor.
AT_ONCE: Final = ("nice", "-n", "-15")
ALICE: Final = ("-u", USER, "-w", PASSWORD)
TO_PEER: Final = ("-e", "198.51.100.2")  # which echoes; without it clients talk to each other
TO_PEER6: Final = ("-x", "-e", "2001:db8::2")
CLIENTS: Final = ("-y",)
OVER_TCP: Final = ("-t",)
OVER_TLS: Final = ("-t", "-S", "-p", str(TLS_PORT))
BY_SENDING: Final = ("-s",)
RELAY4: Final = "198.51.100.1"
RELAY6: Final = "2001:db8::1"


@dataclass(frozen=True)
class Run:
    """A run of uclient: its arguments, how many sessions these make, and how many messages each sends."""

    arguments: tuple[str, ...]
    sessions: int = 2
    server: str = RELAY4
    messages: int = MESSAGES


RUNS: Final = {
    "udp": Run((*ALICE, *TO_PEER)),
    "udp, Send method": Run((*ALICE, *BY_SENDING, *TO_PEER)),
    "udp, two clients": Run((*ALICE, *CLIENTS), sessions=4),
    "udp, two clients, Send method": Run((*ALICE, *CLIENTS, *BY_SENDING), sessions=4),
    "udp, padded, DONT-FRAGMENT, repeated requests": Run((*ALICE, "-D", "-g", "-G", *TO_PEER)),
    "udp, name with a time": Run(("-u", USER, "-W", SECRET, *TO_PEER)),
    "udp, IPv6": Run((*ALICE, *TO_PEER6), server=RELAY6),
    "udp, IPv4 to IPv6": Run((*ALICE, *TO_PEER6)),
    "udp, IPv6 to IPv4": Run((*ALICE, "-X", *TO_PEER), server=RELAY6),
    "tcp": Run((*ALICE, *OVER_TCP, *TO_PEER)),
    "tcp, Send method": Run((*ALICE, *OVER_TCP, *BY_SENDING, "-l", "101", *TO_PEER)),
    "tcp, two clients": Run((*ALICE, *OVER_TCP, *CLIENTS), sessions=4),
    "tcp, IPv6": Run((*ALICE, *OVER_TCP, *TO_PEER6), server=RELAY6),
    "tls": Run((*ALICE, *OVER_TLS, *TO_PEER)),
    "tls, Send method": Run((*ALICE, *OVER_TLS, *BY_SENDING, *TO_PEER)),
    "tls, two clients": Run((*ALICE, *OVER_TLS, *CLIENTS), sessions=4),
    "tls, IPv6": Run((*ALICE, *OVER_TLS, *TO_PEER6), server=RELAY6),
    "tls, IPv6 to IPv4": Run((*ALICE, *OVER_TLS, "-X", *TO_PEER), server=RELAY6),
    "udp, long": Run((*ALICE, *TO_PEER, "-m", "6", "-l", "1200", "-z", "10"), sessions=6, messages=1000),
    "udp, two clients, long": Run((*ALICE, *CLIENTS, "-m", "8", "-z", "10"), sessions=8, messages=1000),
    "tcp, long": Run((*ALICE, *OVER_TCP, *TO_PEER, "-m", "6", "-l", "1200", "-z", "10"), sessions=6, messages=1000),
}


class Stage(TurnStage):
    """All runs, done, with what each said."""

    def __init__(self, stack: ExitStack, mode: str) -> None:
        super().__init__(stack, mode)
        for address in ("198.51.100.2", "2001:db8::2"):
            peer = subprocess.Popen(self.command(*AT_ONCE, "turnutils_peer", "-L", address), stdout=subprocess.DEVNULL)
            stack.callback(peer.wait, 10)
            stack.callback(peer.kill)
        self.binding = {server: self._say("turnutils_stunclient", server) for server in (RELAY4, RELAY6)}
        started = {name: self._start(stack, run) for name, run in RUNS.items()}
        self.said = {name: process.communicate(timeout=200)[0] for name, process in started.items()}
        self.end_capture()

    def _start(self, stack: ExitStack, run: Run) -> subprocess.Popen[str]:
        words = (*AT_ONCE, "turnutils_uclient", "-n", str(run.messages), *run.arguments, run.server)
        process = subprocess.Popen(
            self.command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.folder, text=True
        )
        stack.callback(process.communicate)
        stack.callback(process.kill)
        return process

    def _say(self, *words: str) -> str:
        return subprocess.run(self.command(*words), capture_output=True, text=True, timeout=30, check=True).stdout


@pytest.fixture(scope="module", params=["off", "native"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(stack, request.param)


@pytest.mark.parametrize("name", RUNS)
def test_uclient_loses_nothing(stage: Stage, name: str) -> None:
    said = stage.said[name]
    sent = re.findall(r"tot_send_msgs=(\d+), tot_recv_msgs=(\d+)", said)[-1:]
    expected = str(RUNS[name].messages * RUNS[name].sessions)
    assert sent == [(expected, expected)], said
    assert "Total lost packets 0 (0.000000%)" in said


def test_stunclient_learns_its_address(stage: Stage) -> None:
    assert re.search(r"IPv4\. UDP reflexive addr: 198\.51\.100\.2:\d+", stage.binding[RELAY4])
    assert re.search(r"IPv6\. UDP reflexive addr: 2001:db8::2:\d+", stage.binding[RELAY6])


def test_tshark_understands_every_message(stage: Stage) -> None:
    assert not stage.faults()
    for kind in ("udp && stun.channel", "tcp && stun.type == 0x0017"):
        assert stage.messages(kind), kind
    for kind in ("stun.channel", "stun.type == 0x0017"):
        assert stage.messages(kind, within_tls=True), kind


def test_the_relay_does_not_complain(stage: Stage) -> None:
    assert not stage.complaints()


def test_the_kernel_carries_all_channels_of_udp(stage: Stage) -> None:
    relayed = {True: 0, False: 0}  # by whether the kernel can
    for run in RUNS.values():
        in_kernel = stage.mode == "native" and not {"-t", "-s"} & {*run.arguments}
        relayed[in_kernel] += run.sessions * run.messages * (1 if "-y" in run.arguments else 2)  # the peer's echo
    assert stage.packets("xdp") + stage.packets("python") == sum(relayed.values())
    # A packet may come before the kernel knows where its destination lives.
    assert 0.99 * relayed[True] <= stage.packets("xdp") <= relayed[True]
