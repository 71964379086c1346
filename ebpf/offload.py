"""The offload as the relay sees it: load, attach, then keep the maps equal to the channel bindings.

A projection (the maps can be lost at any time and only speed is): the relay's core decides, this writes what follows.
All calls but ``look`` are made by one thread. Loading takes about a second and the self-tests up to two more per
egress, so a relay makes this object before it serves; later ones are part of ``look``.
"""

import atexit
import errno
import logging
import struct
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import chain
from ebpf import bpf_syscall, layout, netlink
from ebpf.attach import Attachment, attach_all, attach_by_ladder
from ebpf.bindings import Bindings, Buckets
from ebpf.counters import NOTHING, Counters, FlowCounters
from ebpf.doctor import explain, hopeless
from ebpf.egress import examine_egress
from ebpf.egresses import Egresses, Tested
from ebpf.host import find_interfaces, own_addresses
from ebpf.layout import Counter, FlowKey, NextHop
from ebpf.loader import BuildOptions, LoadedProgram, load
from ebpf.netlink import Interface, KnownHop, Route
from ebpf.next_hops import NextHops
from ebpf.outcomes import Direction, Outcome
from ebpf.projection import Changes, Projection
from ebpf.settings import ChannelFlow, OffloadError, OffloadSettings
from ebpf.verdict import EgressState, Finding

# Client and peer of one family put both entries of a binding into one map.
_ENTRIES_PER_BINDING: Final = 2
_CONFIG_KEY: Final = struct.pack("=I", 0)

_log = logging.getLogger("ebpf")


@dataclass(frozen=True, slots=True)
class View:
    """What the host was seen to have: interfaces that are offloaded, all its addresses, what was due of the rest."""

    interfaces: list[Interface]
    addresses: frozenset[IPAddress]
    next_hops: dict[Route, NextHop | None]
    tests: list[Tested] = field(default_factory=list)


class RelayOffload:
    """The XDP program of one relay.

    Raises:
        OffloadError: an interface does not exist, or a demanded mode cannot be had. In ``auto`` mode the rest ends in
            ``mode == "off"`` with ``reason``.
    """

    mode: Literal["native", "generic", "off"]
    reason: str

    def __init__(self, settings: OffloadSettings) -> None:
        self._settings = settings
        self._program: LoadedProgram | None = None
        self._bindings: Bindings | None = None
        self._buckets: Buckets | None = None
        self._attachments: dict[str, Attachment] = {}
        self._absent: dict[str, str] = {}
        self._egresses = Egresses(settings.interfaces)
        self._in_use = threading.Lock()  # the program, by a self-test in the thread that looks
        self._next_hops: NextHops | None = None
        self._interfaces = find_interfaces(settings.interfaces)
        self._own, sources = own_addresses(settings, self._interfaces, netlink.host_addresses())
        self._projection = Projection(
            public={address.version: address for address in reversed(settings.public)},
            own=(*settings.public, *settings.internal),
            sources=sources,
            capacity=settings.capacity,
        )
        self.mode, self.reason = "off", ""
        atexit.register(self.close)
        try:
            self._start()
        except OffloadError as error:
            self.close()
            self.mode, self.reason = "off", chain(error)
            if settings.mode != "auto":
                raise
        if self.mode == "off":
            _log.warning("offload is off, packets are relayed in user space", extra={"fields": {"reason": self.reason}})

    def egress_states(self) -> dict[str, EgressState]:
        """What the self-test found, by interface."""
        return self._egresses.states()

    @property
    def capacity(self) -> int:
        """How many bindings fit."""
        return self._settings.capacity

    def __len__(self) -> int:
        """How many bindings there are."""
        return len(self._projection)

    def install(self, flow: ChannelFlow) -> bool:
        """Offload a binding, or refresh it: later expiry, same counters.

        Returns:
            False if it stays in user space: the table is full, or the offload is off. It may be tried again.
        """
        if self._program is None or self._bindings is None:
            return False
        if flow.bucket >= layout.BUCKETS or not self._projection.has_room(flow):
            self.remove(flow.client, flow.channel)
            return False
        slot_before = self._projection.slot(flow.client, flow.channel)
        changes = self._projection.install(flow)
        slot = self._projection.slot(flow.client, flow.channel)
        self._end(changes)
        if not slot_before:
            self._bindings.start(slot)
        try:
            self._write(changes)
        except OSError as error:
            if error.errno not in (errno.E2BIG, errno.ENOSPC, errno.ENOMEM):
                raise
            self.remove(flow.client, flow.channel)
            return False
        self._bindings.relay_until(slot, flow.expires_at, flow.bucket)
        return True

    def remove(self, client: Endpoint, channel: int) -> FlowCounters:
        """Take a binding back to user space, and tell what it carried; an unknown one is fine."""
        if self._program is None or self._bindings is None:
            return NOTHING
        slot = self._projection.slot(client, channel)
        changes = self._projection.remove(client, channel)
        self._end(changes)
        self._write(changes)
        return FlowCounters(*self._bindings.counters(slot))

    def set_bucket(self, bucket: int, bytes_per_second: int) -> None:
        """Limit a user, or the whole relay (0), to this in each direction; 0 is no limit. The bucket is full again."""
        if self._program is not None and bucket < layout.BUCKETS:
            key = struct.pack("=I", bucket)
            bpf_syscall.map_update(self._map("buckets"), key, layout.BUCKET.pack(bytes_per_second, 0, 0))

    @property
    def bucket_memory(self) -> memoryview | None:
        """The token buckets' memory while the offload is on: rate and, by direction, until when it is used up."""
        return None if self._buckets is None else self._buckets.numbers

    def look(self) -> View:
        """See whether the host's addresses and next hops have changed, which ``follow`` acts on; every few seconds.

        Takes some 10 ms per interface, and up to two seconds where a self-test is due, so an event loop lets another
        thread look.
        """
        present = [netlink.find_interface(interface.name) for interface in self._interfaces]
        due = [] if self._next_hops is None else self._next_hops.due(time.monotonic_ns())
        interfaces = [interface for interface in present if interface is not None]
        return View(
            interfaces, netlink.host_addresses(), netlink.neighbours(due) if due else {}, self._tests(interfaces)
        )

    @property
    def has_test_due(self) -> bool:
        """Whether an egress waits for its first test, so that looking again at once is worth it."""
        return self._program is not None and "untested" in self.egress_states().values()

    def follow(self, view: View) -> None:
        """Take over what the host was seen to have."""
        if self._program is None:
            return
        present = {interface.name: interface for interface in view.interfaces}
        returned = [each.name for each in self._interfaces if self._is_returned(each.name, present.get(each.name))]
        own, _ = own_addresses(self._settings, view.interfaces, view.addresses)
        if returned or own != self._own:
            self._interfaces = [present.get(interface.name, interface) for interface in self._interfaces]
            self._own = own
            for name in returned:
                self._egresses.handle_return(name)
            self._write_config()
        tests = [test for test in view.tests if test.name not in returned]
        if self._egresses.take(tests, time.monotonic_ns()):
            self._write_config()
        if returned and self._next_hops is not None:  # the flows name routes by an interface that is no more
            for flow in self._projection.flows:
                self._write(Changes(writes=self._projection.entries(flow)))
        if self._next_hops is not None:
            self._next_hops.learn(view.next_hops, time.monotonic_ns())

    def flow_counters(self, client: Endpoint, channel: int) -> FlowCounters:
        """Forwarded packets and message bytes of a binding; none of an unknown one."""
        if self._bindings is None:
            return NOTHING
        return FlowCounters(*self._bindings.counters(self._projection.slot(client, channel)))

    def counters(self) -> Counters:
        """A snapshot of all counters that are not zero (``forwarded`` has every direction)."""
        forwarded: dict[Direction, Counter] = {
            direction: Counter() for direction in Direction if direction is not Direction.NONE
        }
        egress: dict[Outcome, Counter] = {}
        passed: dict[Outcome, Counter] = {}
        dropped: dict[Outcome, Counter] = {}
        if self._program is None:
            return Counters(forwarded, egress, passed, dropped)
        for outcome in Outcome:
            for direction in Direction:
                counter = self._counter(outcome, direction)
                if not counter.packets:
                    continue
                if outcome.is_forward:
                    egress[outcome] = egress.get(outcome, Counter()) + counter
                    if direction in forwarded:
                        forwarded[direction] += counter
                else:
                    kind = dropped if outcome.is_drop else passed
                    kind[outcome] = kind.get(outcome, Counter()) + counter
        return Counters(forwarded, egress, passed, dropped)

    def close(self) -> None:
        """Take the program off the interfaces that we put it on, and free it."""
        with self._in_use:
            self._close()

    def _close(self) -> None:
        for attachment in self._attachments.values():
            attachment.close()
        self._attachments = {}
        if self._bindings is not None:
            self._bindings.close()
            self._bindings = None
        if self._buckets is not None:
            self._buckets.close()
            self._buckets = None
        if self._program is not None:
            self._program.close()
            self._program = None
            self.mode, self.reason = "off", "closed"
        atexit.unregister(self.close)

    def _start(self) -> None:
        """Load, configure, attach, test: in that order, so that no packet meets an unconfigured program."""
        slots = self._settings.capacity + 1
        self._program = program = _load(BuildOptions(self._settings.capacity * _ENTRIES_PER_BINDING, slots))
        self._bindings = Bindings(program.maps["bindings"], slots)
        self._buckets = Buckets(program.maps["buckets"])
        mode, attachments, self.reason = attach_by_ladder(
            lambda wanted: attach_all(program.fd, self._interfaces, wanted), self._settings.mode
        )
        if mode == "off":
            raise OffloadError(self.reason)
        self.mode = mode
        self._attachments = {attachment.interface.name: attachment for attachment in attachments}
        self._choose_next_hops()
        self._egresses.take(self._tests(self._interfaces), time.monotonic_ns())
        self._write_config()
        fields = {"mode": mode, **{f"egress.{name}": state for name, state in self.egress_states().items()}}
        _log.info("offload is on", extra={"fields": fields | ({"reason": self.reason} if self.reason else {})})

    def _choose_next_hops(self) -> None:
        closed = [
            f"{interface.name}/IPv{version}"
            for interface in self._interfaces
            for version in sorted({address.version for address in interface.addresses})
            if not netlink.is_forwarding(interface.name, version)
        ]
        if closed:
            self._next_hops = NextHops(
                route_to=netlink.route_to,
                neighbour=lambda route: netlink.neighbours([route])[route],
                write=self._write_next_hop,
            )
            _log.info(
                "kernel forwarding is off: next hops from netlink, without a route packets return to their sender",
                extra={"fields": {"interfaces": ",".join(closed)}},
            )

    def _tests(self, interfaces: list[Interface]) -> list[Tested]:
        """The self-tests that are due."""
        if self.mode == "generic":
            return self._egresses.without_tests()
        return self._egresses.run_tests(interfaces, self._examine, time.monotonic_ns())

    def _examine(self, interface: Interface, hops: list[KnownHop]) -> Finding:
        with self._in_use:
            program = self._program
            if program is None or interface.name not in self._attachments:
                return Finding.NOBODY
            self._write_config(probe=interface.index)
            finding = examine_egress(interface, hops, lambda frame: bpf_syscall.send_live_frame(program.fd, frame))
            self._write_config()
            return finding

    def _is_returned(self, name: str, interface: Interface | None) -> bool:
        """Notice an interface that went away; put the program on again when it, or one of its name, is back."""
        assert self._program is not None, "only a loaded program is maintained"
        assert self.mode != "off", "a loaded program is attached"
        program_id = bpf_syscall.program_info(self._program.fd).id
        if interface is not None and interface.program_id == program_id:
            return False
        if (lost := self._attachments.pop(name, None)) is not None:
            lost.close()
            self._egresses.handle_gone(name)
            self._write_config()
        problem = "no such network interface"
        if interface is not None:
            try:
                (self._attachments[name],) = attach_all(self._program.fd, [interface], self.mode)
            except OffloadError as error:
                problem = chain(error)
            else:
                self._absent.pop(name, None)
                _log.info("offload is on again", extra={"fields": {"interface": name}})
                return True
        if self._absent.get(name) != problem:
            self._absent[name] = problem
            _log.warning("an interface lost its offload", extra={"fields": {"interface": name, "reason": problem}})
        return False

    def _write_config(self, probe: int = 0) -> None:
        egress = [interface.index for interface in self._interfaces if self._egresses.may_carry(interface.name)]
        config = layout.pack_config(
            listen_ports=self._settings.listen_ports,
            from_peer=self.mode != "generic" or self._settings.generic_from_peer,
            own=self._own,
            egress=egress,
            probe=probe,
        )
        bpf_syscall.map_update(self._map("config"), _CONFIG_KEY, config)

    def _write_next_hop(self, slot: int, hop: NextHop | None) -> None:
        value = bytes(layout.NEXT_HOP_BYTES) if hop is None else hop.pack()
        bpf_syscall.map_update(self._map("next_hops"), struct.pack("=I", slot), value)

    def _end(self, changes: Changes) -> None:
        """What must not relay any more, in the order in which it takes effect at once."""
        assert self._bindings is not None, "bindings live as long as the program"
        for slot in changes.ended:
            self._bindings.end(slot)
        for key in changes.deletes:
            bpf_syscall.map_delete(self._flow_map(key), key.pack())

    def _write(self, changes: Changes) -> None:
        now = time.monotonic_ns()
        for key, value in changes.writes:
            slot = 0 if self._next_hops is None else self._next_hops.slot(value.target.ip, now)
            bpf_syscall.map_update(self._flow_map(key), key.pack(), replace(value, next_hop=slot).pack(key))

    def _counter(self, outcome: Outcome, direction: Direction) -> Counter:
        size = layout.COUNTER.size
        key = struct.pack("=I", outcome * len(Direction) + direction)
        values = bpf_syscall.map_lookup(self._map("outcome_stats"), key, size * bpf_syscall.possible_cpus()) or b""
        return sum((Counter._make(pair) for pair in layout.COUNTER.iter_unpack(values)), start=Counter())

    def _flow_map(self, key: FlowKey) -> int:
        return self._map("flows_v4" if key.remote.ip.version == 4 else "flows_v6")

    def _map(self, name: str) -> int:
        assert self._program is not None, "a map is used only while the program is loaded"
        return self._program.maps[name]


def _load(options: BuildOptions) -> LoadedProgram:
    """Load, and if that fails say first what stands in the way on this host: the compiler's words seldom do."""
    if hopeless():
        raise OffloadError("; ".join(explain()))
    try:
        return load(options)
    except OffloadError as error:
        reason = chain(error)
        obstacles = [line for line in explain() if line not in reason]
        if not obstacles:
            raise
        raise OffloadError("; ".join([*obstacles, reason])) from None
