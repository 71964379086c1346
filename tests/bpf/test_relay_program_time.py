"""The measurement of program times measures; no figures are asked for here."""

import itertools
import os

import pytest

from connectivity.endpoint import Endpoint
from ebpf import bpf_syscall, program_time
from ebpf.attach import FLAGS
from ebpf.oracle import Datagram
from ebpf.settings import ChannelFlow
from tests.bpf.relay_bench import FOREVER, LISTEN_PORT, MACS, RELAY, Bench

pytestmark = pytest.mark.root

CLIENT = Endpoint.parse("192.0.2.10:50001")
PEER = Endpoint.parse("192.0.2.20:60002")


def test_both_programs_forward_and_are_timed_by_turns(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.install(ChannelFlow(CLIENT, 0x4001, PEER, 50_000, FOREVER))
    message = b"\x40\x01\x05\x00" + bytes(1280)
    frame = MACS + b"\x08\x00" + Datagram(CLIENT, Endpoint(RELAY[4], LISTEN_PORT), message).packet()
    with program_time.load_bare() as bare, program_time.counting():
        before = program_time.RunTime.of(bench.program.fd).runs  # others on this machine may have had runs counted
        names = {bpf_syscall.program_info(fd).id: fd for fd in (bench.program.fd, bare.fd)}
        link_fd = bpf_syscall.create_xdp_link(bench.program.fd, bench.egress, FLAGS["native"])

        def on_link() -> int:
            (present,) = (link for link in bpf_syscall.xdp_links() if link.program_id in names)
            return names[present.program_id]

        def traffic(_: float) -> None:
            for _ in range(100):
                assert bpf_syscall.run_program(on_link(), frame)[0] == 4, "redirect"

        try:
            monkeypatch.setattr("ebpf.program_time.time.sleep", traffic)
            turns = itertools.count()
            relay_ns, bare_ns = program_time.by_turns([bench.program.fd, bare.fd], link_fd, lambda: next(turns) == 3)
            assert on_link() == bench.program.fd, "as before"
            runs = [program_time.RunTime.of(fd).runs for fd in (bench.program.fd, bare.fd)]
            assert runs[0] - before >= 300, "the link's own traffic comes on top"
            assert runs[1] >= 300
        finally:
            os.close(link_fd)
        assert relay_ns > 0
        assert bare_ns > 0
