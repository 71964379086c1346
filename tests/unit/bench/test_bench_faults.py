"""What is read from a ping, and what the faults want."""

import pytest

from bench.faults import read_settings
from bench.faults_stage import FAULTS, longest_silence
from bench.figures import LONGEST_TEXT
from lab.errors import LabError

SAID = """PING 172.20.0.100 (172.20.0.100) 56(84) bytes of data.
[1795916272.400000] 64 bytes from 172.20.0.100: icmp_seq=1 ttl=62 time=1.05 ms
[1795916272.450000] 64 bytes from 172.20.0.100: icmp_seq=2 ttl=62 time=1.05 ms
[1795916272.500000] From 10.77.0.1 icmp_seq=3 Destination Host Unreachable
[1795916272.725000] 64 bytes from 172.20.0.100: icmp_seq=7 ttl=62 time=1.05 ms
[1795916272.775000] 64 bytes from 172.20.0.100: icmp_seq=8 ttl=62 time=1.05 ms
"""


def test_the_longest_silence_lies_between_two_answers() -> None:
    assert longest_silence(SAID) == pytest.approx(275)


def test_a_ping_without_answers_is_none() -> None:
    with pytest.raises(LabError, match="nothing was answered"):
        longest_silence("PING\n[1.0] 64 bytes from 172.20.0.100: icmp_seq=1\n")


def test_every_fault_has_room_for_its_words_and_is_watched_for_longer_than_it_may_last() -> None:
    for fault in FAULTS.values():
        assert len(fault.text) <= LONGEST_TEXT
        assert fault.watch_seconds * 1000 > 2 * fault.at_most


def test_without_flags_each_is_done_three_times() -> None:
    assert (read_settings([]).rounds, read_settings([]).only) == (3, None)
