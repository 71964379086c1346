"""The loaded program on a bench: maps to fill, frames to run through it, counters to read."""

import struct
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from connectivity.endpoint import IPAddress
from ebpf import bpf_syscall, layout
from ebpf.bindings import Bindings
from ebpf.layout import Counter, FlowKey, FlowValue, NextHop
from ebpf.loader import LoadedProgram
from ebpf.outcomes import OUTCOME_COUNT, Direction, Outcome
from ebpf.projection import Projection
from ebpf.settings import ChannelFlow

LISTEN_PORT: Final = 3478
OTHER_LISTEN_PORT: Final = 80
FOREVER: Final = 1 << 62
PROGRAM_CLOCK: Final = 6  # CLOCK_MONOTONIC_COARSE: the time of the last tick
BINDINGS: Final = 64
SPARE_SLOT: Final = BINDINGS - 1  # for entries that a test writes by itself: always live
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
        self.bindings = Bindings(program.maps["bindings"], BINDINGS)
        self.reset()

    def reset(self) -> None:
        """No flows, no counts, both families, everything allowed."""
        self.project(PUBLIC, [*RELAY.values(), *PUBLIC.values()])
        for version, name in ((4, "flows_v4"), (6, "flows_v6")):
            fd = self.program.maps[name]
            for key in list(bpf_syscall.map_keys(fd, layout.KEY_BYTES[version])):
                bpf_syscall.map_delete(fd, key)
        empty = bytes(layout.COUNTER.size * bpf_syscall.possible_cpus())
        for index in range(len(Direction) * OUTCOME_COUNT):
            bpf_syscall.map_update(self.program.maps["outcome_stats"], struct.pack("=I", index), empty)
        for slot in range(1, BINDINGS):
            self.bindings.start(slot)
        self.bindings.relay_until(SPARE_SLOT, FOREVER, 0)
        for bucket in range(8):
            self.set_bucket(bucket, 0)
        self.configure()

    def project(self, public: dict[int, IPAddress], own: Sequence[IPAddress]) -> None:
        """No flows, and these as addresses of the relay."""
        self.projection = Projection(public=public, own=own, sources=RELAY, capacity=SPARE_SLOT - 1)

    def configure(self, *, from_peer: bool = True, egress: Sequence[int] | None = None) -> None:
        config = layout.pack_config(
            listen_ports=(LISTEN_PORT, OTHER_LISTEN_PORT),
            from_peer=from_peer,
            own=list(RELAY.values()),
            egress=[self.egress] if egress is None else egress,
        )
        bpf_syscall.map_update(self.program.maps["config"], struct.pack("=I", 0), config)

    def install(self, *flows: ChannelFlow) -> None:
        for flow in flows:
            changes = self.projection.install(flow)
            self.bindings.relay_until(self.slot(flow), flow.expires_at, flow.bucket)
            for key in changes.deletes:
                bpf_syscall.map_delete(self.flow_map(key), key.pack())
            for key, value in changes.writes:
                self.put(key, value)

    def slot(self, flow: ChannelFlow) -> int:
        return self.projection.slot(flow.client, flow.channel)

    def set_bucket(self, bucket: int, bytes_per_second: int, spent_until: int = 0) -> None:
        value = layout.BUCKET.pack(bytes_per_second, spent_until, spent_until)
        bpf_syscall.map_update(self.program.maps["buckets"], struct.pack("=I", bucket), value)

    def put(self, key: FlowKey, value: FlowValue) -> None:
        bpf_syscall.map_update(self.flow_map(key), key.pack(), value.pack(key))

    def put_hop(self, slot: int, hop: NextHop) -> None:
        bpf_syscall.map_update(self.program.maps["next_hops"], struct.pack("=I", slot), hop.pack())

    def flow_map(self, key: FlowKey) -> int:
        return self.program.maps["flows_v4" if key.remote.ip.version == 4 else "flows_v6"]

    def flow_counters(self, flow: ChannelFlow) -> tuple[Counter, Counter]:
        """To the peer, and to the client."""
        return self.bindings.counters(self.slot(flow))

    def run(self, frame: bytes) -> tuple[str, bytes]:
        verdict, out = bpf_syscall.run_program(self.program.fd, frame)
        return _VERDICTS.get(verdict, str(verdict)), out

    def count(self, outcome: Outcome) -> int:
        """Packets that did not get as far as to belong to a flow."""
        return self._counter(outcome, Direction.NONE).packets

    def _counter(self, outcome: Outcome, direction: Direction) -> Counter:
        size = layout.COUNTER.size * bpf_syscall.possible_cpus()
        key = struct.pack("=I", outcome * len(Direction) + direction)
        values = bpf_syscall.map_lookup(self.program.maps["outcome_stats"], key, size) or b""
        return sum((Counter._make(pair) for pair in layout.COUNTER.iter_unpack(values)), start=Counter())

    def outcomes(self) -> dict[tuple[Outcome, Direction], Counter]:
        """All counters that are not zero."""
        found = {}
        for outcome in Outcome:
            for direction in Direction:
                total = self._counter(outcome, direction)
                if total.packets:
                    found[outcome, direction] = total
        return found
