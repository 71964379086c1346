"""The offload as the relay sees it: load, attach, then keep the maps equal to the channel bindings.

A projection (the maps can be lost at any time and only speed is): the relay's core decides, this writes what follows.
All calls but ``look`` are made by one thread. Loading takes about a second and the self-tests up to one more per
egress, so a relay makes this object before it serves.
"""

import atexit
import errno
import logging
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from connectivity.clock import Instant
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import chain
from ebpf import bpf_syscall, layout, netlink
from ebpf.attach import Attachment, attach_all, attach_by_ladder
from ebpf.doctor import explain
from ebpf.egress import EgressState, verify_egress
from ebpf.layout import Counter, FlowKey, FlowValue, NextHop
from ebpf.loader import BuildOptions, LoadedProgram, load
from ebpf.netlink import Interface, Route
from ebpf.next_hops import NextHops
from ebpf.outcomes import Direction, Outcome
from ebpf.projection import Changes, Projection
from ebpf.settings import MAX_INTERFACES, ChannelFlow, OffloadError, OffloadSettings

# Client and peer of one family put both entries of a binding into one map.
_ENTRIES_PER_BINDING: Final = 2
_CONFIG_KEY: Final = struct.pack("=I", 0)

_log = logging.getLogger("ebpf")


@dataclass(frozen=True, slots=True)
class FlowCounters:
    """What one binding has had forwarded by the program. ``from_client`` includes packets to another client."""

    from_client: Counter
    to_client: Counter


@dataclass(frozen=True, slots=True)
class Counters:
    """What the program did since it was loaded. Bytes are message bytes in ``forwarded``, frame bytes else."""

    forwarded: Mapping[Direction, Counter]
    egress: Mapping[Outcome, Counter]
    passed: Mapping[Outcome, Counter]
    dropped: Mapping[Outcome, Counter]


@dataclass(frozen=True, slots=True)
class View:
    """What the host was seen to have: the interfaces that are offloaded, and the neighbours that were due."""

    interfaces: list[Interface]
    next_hops: dict[Route, NextHop | None]


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
        self._attachments: list[Attachment] = []
        self._states: dict[str, EgressState] = {}
        self._next_hops: NextHops | None = None
        self._interfaces = _find_interfaces(settings.interfaces)
        self._own, sources = own_addresses(settings, self._interfaces)
        self._projection = Projection(
            listen_port=settings.listen_port, own=(*settings.public, *settings.internal), sources=sources
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
        return dict(self._states)

    def install(self, flow: ChannelFlow) -> bool:
        """Offload a binding, or refresh it: later expiry, same counters.

        Returns:
            False if it stays in user space: the table is full, or the offload is off.
        """
        if self._program is None:
            return False
        now = time.monotonic_ns()
        try:
            self._apply(self._projection.install(flow), now)
        except OSError as error:
            if error.errno not in (errno.E2BIG, errno.ENOMEM):
                raise
            self._apply(self._projection.remove(flow.client, flow.channel), now)
            return False
        return True

    def remove(self, client: Endpoint, channel: int) -> None:
        """Take a binding back to user space; an unknown one is fine."""
        if self._program is not None:
            self._apply(self._projection.remove(client, channel), time.monotonic_ns())

    def look(self) -> View:
        """See whether the host's addresses and next hops have changed, which ``follow`` acts on; every few seconds.

        Takes some 10 ms per interface, so an event loop lets another thread look.
        """
        present = [netlink.find_interface(interface.name) for interface in self._interfaces]
        due = [] if self._next_hops is None else self._next_hops.due(time.monotonic_ns())
        return View(
            [interface for interface in present if interface is not None], netlink.neighbours(due) if due else {}
        )

    def follow(self, view: View) -> None:
        """Take over what the host was seen to have."""
        if self._program is None:
            return
        own, _ = own_addresses(self._settings, view.interfaces)
        if own != self._own:
            self._own = own
            self._write_config()
        if self._next_hops is not None:
            self._next_hops.learn(view.next_hops, time.monotonic_ns())

    def flow_counters(self) -> dict[tuple[Endpoint, int], FlowCounters]:
        """Forwarded packets and message bytes by client and channel."""
        return {
            (flow.client, flow.channel): FlowCounters(
                self._flow_counter(FlowKey(flow.client, flow.channel)),
                self._flow_counter(FlowKey(flow.peer, flow.relayed_port)),
            )
            for flow in self._projection.flows
        }

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
        for attachment in self._attachments:
            attachment.close()
        self._attachments = []
        if self._program is not None:
            self._program.close()
            self._program = None
            self.mode, self.reason = "off", "closed"
        atexit.unregister(self.close)

    def _start(self) -> None:
        """Load, configure, attach, test: in that order, so that no packet meets an unconfigured program."""
        self._program = program = _load(BuildOptions(self._settings.capacity * _ENTRIES_PER_BINDING))
        mode, self._attachments, self.reason = attach_by_ladder(
            lambda wanted: attach_all(program.fd, self._interfaces, wanted), self._settings.mode
        )
        if mode == "off":
            raise OffloadError(self.reason)
        self.mode = mode
        self._choose_next_hops()
        self._test_egresses()
        self._write_config()
        fields = {"mode": mode, **{f"egress.{name}": state for name, state in self._states.items()}}
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

    def _test_egresses(self) -> None:
        program = self._program
        if program is None or self.mode == "generic":
            self._states = dict.fromkeys((interface.name for interface in self._interfaces), "unverified")
            return
        for interface in self._interfaces:
            self._write_config(probe=interface.index)
            hops = netlink.known_next_hops(interface.index)
            state = verify_egress(interface, hops, lambda frame: bpf_syscall.send_live_frame(program.fd, frame))
            self._states[interface.name] = state
            if state == "swallows":
                _log.warning("frames vanish, flows stay in user space", extra={"fields": {"egress": interface.name}})

    def _write_config(self, probe: int = 0) -> None:
        egress = [i.index for i in self._interfaces if self._states.get(i.name) in ("verified", "unverified")]
        config = layout.pack_config(
            listen_port=self._settings.listen_port,
            from_peer=self.mode != "generic" or self._settings.generic_from_peer,
            own=self._own,
            egress=egress,
            probe=probe,
        )
        bpf_syscall.map_update(self._map("config"), _CONFIG_KEY, config)

    def _write_next_hop(self, slot: int, hop: NextHop | None) -> None:
        value = bytes(layout.NEXT_HOP_BYTES) if hop is None else hop.pack()
        bpf_syscall.map_update(self._map("next_hops"), struct.pack("=I", slot), value)

    def _apply(self, changes: Changes, now: Instant) -> None:
        for key in changes.deletes:
            bpf_syscall.map_delete(self._flow_map(key), key.pack())
        for key, value in changes.writes:
            self._write_flow(key, value, now)

    def _write_flow(self, key: FlowKey, value: FlowValue, now: Instant) -> None:
        # What the program counts between this read and the write is lost to the flow's own counters, not to the totals.
        slot = 0 if self._next_hops is None else self._next_hops.slot(value.target.ip, now)
        counted = replace(value, next_hop=slot, counter=self._flow_counter(key))
        bpf_syscall.map_update(self._flow_map(key), key.pack(), counted.pack(key))

    def _flow_counter(self, key: FlowKey) -> Counter:
        value = bpf_syscall.map_lookup(self._flow_map(key), key.pack(), layout.FLOW_BYTES)
        return Counter() if value is None else layout.unpack_flow_counter(value)

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


def own_addresses(
    settings: OffloadSettings, interfaces: list[Interface]
) -> tuple[tuple[IPAddress, ...], dict[int, IPAddress]]:
    """The addresses that the program answers for, and the one that it sends from in each family.

    Behind a 1:1 NAT that is the internal one; else the interfaces' own, of which a public one is preferred.
    """
    own: list[IPAddress] = []
    sources: dict[int, IPAddress] = {}
    for version in (4, 6):
        named = [address for address in settings.internal if address.version == version]
        present = [
            address
            for interface in interfaces
            for address in interface.addresses
            if address.version == version and not address.is_link_local and not address.is_loopback
        ]
        present.sort(key=lambda address: address not in settings.public)
        chosen = list(dict.fromkeys(named or present))
        if len(chosen) > layout.MAX_OWN_ADDRESSES:
            _log.warning("more addresses than the program answers for", extra={"fields": {"addresses": len(chosen)}})
        own += chosen[: layout.MAX_OWN_ADDRESSES]
        if chosen:
            sources[version] = chosen[0]
    return tuple(own), sources


def _load(options: BuildOptions) -> LoadedProgram:
    """Load, and if that fails say first what stands in the way on this host: the compiler's words seldom do."""
    try:
        return load(options)
    except OffloadError as error:
        reason = chain(error)
        obstacles = [line for line in explain() if line not in reason]
        if not obstacles:
            raise
        raise OffloadError("; ".join([*obstacles, reason])) from None


def _find_interfaces(names: tuple[str, ...]) -> list[Interface]:
    if not 0 < len(names) <= MAX_INTERFACES:
        raise OffloadError(f"expected 1 to {MAX_INTERFACES} interfaces to offload, got {len(names)}")
    found = {name: netlink.find_interface(name) for name in names}
    missing = [name for name, interface in found.items() if interface is None]
    if missing:
        raise OffloadError(f"no such network interface: {', '.join(missing)}")
    return [interface for interface in found.values() if interface is not None]
