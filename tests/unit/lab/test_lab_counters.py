"""Reading the kernel's counters."""

from lab.counters import UDP_ERRORS, parse_nstat

NSTAT = """#kernel
IpInReceives                    12                 0.0
UdpInErrors                     3                  0.0
Udp6RcvbufErrors                0                  0.0
"""


def test_nstat_lines_become_numbers_by_name() -> None:
    assert parse_nstat(NSTAT) == {"IpInReceives": 12, "UdpInErrors": 3, "Udp6RcvbufErrors": 0}


def test_both_families_and_both_buffers_are_watched() -> None:
    assert {"UdpRcvbufErrors", "UdpSndbufErrors", "Udp6RcvbufErrors", "Udp6SndbufErrors", "Udp6InErrors"} <= UDP_ERRORS
