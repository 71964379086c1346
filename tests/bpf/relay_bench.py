"""The loaded program on a bench: maps to fill, frames to run through it, counters to read."""

import struct
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from connectivity.endpoint import IPAddress
from ebpf import bpf_syscall, layout
from ebpf.layout import Counter, FlowKey, FlowValue, NextHop
from ebpf.loader import LoadedProgram
from ebpf.outcomes import OUTCOME_COUNT, Direction, Outcome
from ebpf.projection import Projection
from ebpf.settings import ChannelFlow

LISTEN_PORT: Final = 3478
FOREVER: Final = 1 << 62
RELAY: Final[dict[int, IPAddress]] = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
PUBLIC: Final[dict[int, IPAddress]] = {4: ip_address("203.0.113.7"), 6: ip_address("2001:db8:ffff::7")}
MACS: Final = bytes.fromhex("020000000001020000000002")
NEIGHBOUR_MAC: Final = bytes.fromhex("020000000099")
_VERDICTS: Final = {1: "drop", 2: "pass", 4: "redirect"}


class Bench:
    """The loaded program, its maps to fill, frames to run through it."""

    def __init__(self, program: LoadedProgram, egress: int) -> None:
        self.program = program
        self.egress = egress
        self.reset()

    def reset(self) -> None:
        """No flows, no counts, both families, everything allowed."""
        self.projection = Projection(listen_port=LISTEN_PORT, own=[*RELAY.values(), *PUBLIC.values()], sources=RELAY)
        for version, name in ((4, "flows_v4"), (6, "flows_v6")):
            fd = self.program.maps[name]
            for key in list(bpf_syscall.map_keys(fd, layout.KEY_BYTES[version])):
                bpf_syscall.map_delete(fd, key)
        empty = bytes(layout.COUNTER.size * bpf_syscall.possible_cpus())
        for index in range(len(Direction) * OUTCOME_COUNT):
            bpf_syscall.map_update(self.program.maps["outcome_stats"], struct.pack("=I", index), empty)
        self.configure()

    def configure(self, *, from_peer: bool = True, egress: Sequence[int] | None = None) -> None:
        config = layout.pack_config(
            listen_port=LISTEN_PORT,
            from_peer=from_peer,
            own=list(RELAY.values()),
            egress=[self.egress] if egress is None else egress,
        )
        bpf_syscall.map_update(self.program.maps["config"], struct.pack("=I", 0), config)

    def install(self, *flows: ChannelFlow) -> None:
        for flow in flows:
            changes = self.projection.install(flow)
            for key in changes.deletes:
                bpf_syscall.map_delete(self.flow_map(key), key.pack())
            for key, value in changes.writes:
                self.put(key, value)

    def put(self, key: FlowKey, value: FlowValue) -> None:
        bpf_syscall.map_update(self.flow_map(key), key.pack(), value.pack(key))

    def put_hop(self, slot: int, hop: NextHop) -> None:
        bpf_syscall.map_update(self.program.maps["next_hops"], struct.pack("=I", slot), hop.pack())

    def flow_map(self, key: FlowKey) -> int:
        return self.program.maps["flows_v4" if key.remote.ip.version == 4 else "flows_v6"]

    def flow_counter(self, key: FlowKey) -> Counter:
        value = bpf_syscall.map_lookup(self.flow_map(key), key.pack(), layout.FLOW_BYTES)
        assert value is not None
        return layout.unpack_flow_counter(value)

    def run(self, frame: bytes) -> tuple[str, bytes]:
        verdict, out = bpf_syscall.run_program(self.program.fd, frame)
        return _VERDICTS.get(verdict, str(verdict)), out

    def outcomes(self) -> dict[tuple[Outcome, Direction], Counter]:
        """All counters that are not zero."""
        found = {}
        size = layout.COUNTER.size * bpf_syscall.possible_cpus()
        for outcome in Outcome:
            for direction in Direction:
                key = struct.pack("=I", outcome * len(Direction) + direction)
                values = bpf_syscall.map_lookup(self.program.maps["outcome_stats"], key, size) or b""
                total = sum((Counter._make(pair) for pair in layout.COUNTER.iter_unpack(values)), start=Counter())
                if total.packets:
                    found[outcome, direction] = total
        return found
