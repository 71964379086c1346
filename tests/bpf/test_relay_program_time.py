"""The measurement of program times measures; no figures are asked for here."""

import pytest

from connectivity.endpoint import Endpoint
from ebpf import program_time
from ebpf.oracle import Datagram
from ebpf.settings import ChannelFlow
from tests.bpf.relay_bench import FOREVER, LISTEN_PORT, MACS, RELAY, Bench

pytestmark = pytest.mark.root

CLIENT = Endpoint.parse("192.0.2.10:50001")
PEER = Endpoint.parse("192.0.2.20:60002")


def test_both_programs_forward_and_are_timed(bench: Bench) -> None:
    bench.install(ChannelFlow(CLIENT, 0x4001, PEER, 50_000, FOREVER))
    message = b"\x40\x01\x05\x00" + bytes(1280)
    frame = MACS + b"\x08\x00" + Datagram(CLIENT, Endpoint(RELAY[4], LISTEN_PORT), message).packet()
    with program_time.load_bare() as bare, program_time.counting():
        before = program_time.RunTime.of(bare.fd)
        assert bench.run(frame)[0] == "redirect"
        relay_ns, bare_ns = program_time.compare([bench.program.fd, bare.fd], [frame] * 2, rounds=5, runs=50)
        assert program_time.RunTime.of(bare.fd).runs == before.runs + 250
        assert relay_ns > 0
        assert bare_ns > 0
