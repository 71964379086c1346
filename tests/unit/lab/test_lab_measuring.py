"""What measurements are read from: iperf3's JSON, /proc/PID/stat and ss."""

import os
import subprocess
import sys

import pytest

from lab.counters import SocketBuffers, parse_sockets
from lab.cpu import cpu_seconds, family_seconds, parse_stat
from lab.errors import LabError
from lab.measure import Flow, Load, parse_flow, parse_round_trips
from lab.plan import APP_NAME, RESOURCE

STAT = "4711 ({name}) S 1 4711 4711 0 -1 4194560 100 0 0 0 250 125 900 800 20 0 3 0 12345 1000000 2000"

SOCKETS = """\
UNCONN 0      0      0.0.0.0:52625 0.0.0.0:*
\t skmem:(r0,rb268435456,t0,tb33554432,f4096,w0,o0,bl0,d0)
UNCONN 0      0         [::]:52625    [::]:*
\t skmem:(r0,rb8192,t0,tb9216,f4096,w0,o0,bl0,d7)
UNCONN 512    0      10.0.0.1%eth0:68 0.0.0.0:* ino:1 sk:2
\t skmem:(r768,rb212992,t0,tb212992,f0,w0,o0,bl0,d0)
"""


@pytest.mark.parametrize("name", ["postern", "a b", "x) S 1 2 3 (y", ")", "firezone-gatewa"])
def test_cpu_time_is_user_and_system_time_whatever_the_process_is_called(name: str) -> None:
    assert parse_stat(STAT.format(name=name), ticks_per_second=100) == 3.75


@pytest.mark.parametrize("line", ["", "4711", "4711 (postern) S 1 2 3"])
def test_what_is_no_line_of_stat_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="/proc/PID/stat"):
        parse_stat(line, 100)


def test_cpu_time_of_a_process_that_there_is_and_of_one_that_there_is_not() -> None:
    before = cpu_seconds(os.getpid())
    assert 0 < before <= cpu_seconds(os.getpid())
    with pytest.raises(LabError, match="process 4194305 has ended"):
        cpu_seconds(4194305)  # one more than the kernel ever gives out


def test_cpu_time_of_a_process_may_count_its_children_and_theirs() -> None:
    """A shell that burns nothing, below it a program that has burnt a tenth of a second before it says so."""
    burn = "import time\nwhile time.process_time() < 0.1: pass\nprint(flush=True)\ninput()"
    command = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, burn]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdout.readline()
        assert cpu_seconds(shell.pid) < 0.05
        assert family_seconds(shell.pid) >= 0.09
        shell.stdin.write("\n")


def test_round_trips_are_those_that_were_answered() -> None:
    said = """PING 172.20.0.100 (172.20.0.100) 56(84) bytes of data.
64 bytes from 172.20.0.100: icmp_seq=1 ttl=62 time=1.05 ms
From 10.77.0.1 icmp_seq=2 Destination Host Unreachable
64 bytes from 172.20.0.100: icmp_seq=3 ttl=62 time=12 ms

--- 172.20.0.100 ping statistics ---
3 packets transmitted, 2 received, 33% packet loss, time 4ms
"""
    assert parse_round_trips(said) == [1.05, 12.0]


def test_socket_buffers_are_what_was_granted_not_the_double_of_it() -> None:
    assert parse_sockets(SOCKETS) == [
        SocketBuffers("0.0.0.0", 52625, 128 << 20, 16 << 20),
        SocketBuffers("[::]", 52625, 4096, 4608),
        SocketBuffers("10.0.0.1%eth0", 68, 106496, 106496),
    ]
    assert parse_sockets("") == []


def test_tcp_counts_at_the_receiver_and_retransmits_at_the_sender() -> None:
    result = {
        "end": {
            "sum_sent": {"bytes": 1_100_000, "bits_per_second": 8.8e6, "retransmits": 3, "sender": True},
            "sum_received": {"bytes": 1_000_000, "bits_per_second": 8e6, "sender": True},
        }
    }
    assert parse_flow(result) == Flow(8.0, 1_000_000, retransmits=3)


def test_udp_counts_what_arrived_and_neither_what_was_sent_nor_what_was_on_its_way() -> None:
    """As iperf3 3.12 tells it: its sums mix the sender's bytes in, its receiver's packets are the highest number."""
    sent = {"bytes": 1_200_000, "seconds": 1.0, "lost_packets": 0, "packets": 1000, "sender": True}
    received = {"bytes": 1_200_000, "seconds": 2.0, "lost_packets": 100, "packets": 900, "sender": False}
    result = {"end": {"sum": {**sent, "lost_packets": 100}, "sum_sent": sent, "sum_received": received}}
    assert parse_flow(result) == Flow(800 * 1200 * 8 / 2.0 / 1e6, 800 * 1200, sent=1000, lost=100)


def test_udp_of_an_iperf3_with_one_sum_for_both_sides() -> None:
    result = {"end": {"sum": {"bytes": 1_200_000, "seconds": 1.0, "lost_packets": 100, "packets": 1000}}}
    assert parse_flow(result) == Flow(900 * 1200 * 8 / 1e6, 900 * 1200, sent=1000, lost=100)


def test_a_stream_of_which_nothing_arrived_is_no_error() -> None:
    nothing = {"bytes": 0, "seconds": 0, "lost_packets": 0, "packets": 0}
    assert parse_flow({"end": {"sum": nothing, "sum_received": nothing, "sum_sent": nothing}}).mbps == 0


def test_load_becomes_what_iperf3_is_called_with() -> None:
    assert Load("tcp", "up").arguments()[1:6] == ["-J", "-c", RESOURCE.address, "-t", "3"]
    assert "-R" not in Load("tcp", "up").arguments()
    down = Load("udp", "down", 7, 12.34, ipv6=True, socket_bytes=4096).arguments()
    assert down[3:6] == [RESOURCE.address6, "-t", "7"]
    assert down[-8:] == ["-R", "-u", "-b", "12.3M", "-l", "1200", "-w", "4096"]
    assert "0" in Load("udp", "up").arguments()  # iperf3's word for: as fast as it goes
    several = Load("tcp", "up", 2, 50.0, streams=4, by_name=True).arguments()
    assert several[3] == APP_NAME
    assert several[-4:] == ["-P", "4", "-b", "50.0M"]
