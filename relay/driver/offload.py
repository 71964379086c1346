"""Keeps the kernel's forwarding in step with the core: a projection that may fail at any time and costs only speed.

The only importer of ``ebpf`` in the relay, and only when somebody asked for it. The kernel finds a flow by the client's
address and channel, without the address of ours that the client talks to; should one client use one channel number on
two of our addresses or listen ports, neither is offloaded. Nor are clients of more listen ports than the program knows.

Both paths spend from the same token buckets, so a user whose packets take both has the rate once.
"""

import asyncio
import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import FatalError, chain
from relay.configuration import OffloadWish
from relay.core import FiveTuple, InstallChannel, RemoveChannel, SetBucket
from relay.core.configuration import STUN_PORT
from relay.core.quotas import Numbers

if TYPE_CHECKING:
    from ebpf import Counters, FlowCounters, OffloadSettings, RelayOffload, View

OFF: Final = "off"
_LOOKS: Final = 2  # one that finds an interface back, and one that tests it

T = TypeVar("T")
_log = logging.getLogger("relay")


@dataclass(frozen=True, slots=True)
class OffloadStatus:
    """``mode`` is native, generic or off; ``egress`` is what the self-test of each interface found."""

    mode: str
    reason: str
    egress: dict[str, str]
    is_loading: bool = False

    def document(self) -> dict[str, Any]:
        """The status as JSON shows it."""
        return {"mode": self.mode, "reason": self.reason, "egress": self.egress}


class FlowCount(NamedTuple):
    """What the kernel relayed for one channel: datagrams, and payload bytes without channel headers."""

    to_peer_packets: int = 0
    to_peer_bytes: int = 0
    to_client_packets: int = 0
    to_client_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Fill:
    """How full the kernel's table is. ``refused`` counts channels that stayed in user space, for want of room too."""

    channels: int
    capacity: int
    refused: int


@dataclass(slots=True)
class _Waiting:
    """What the program is to be told once it is loaded; as much as the core has of it."""

    settings: "OffloadSettings"
    channels: dict[tuple[Endpoint, int], InstallChannel] = field(default_factory=dict)
    buckets: dict[int, SetBucket] = field(default_factory=dict)


class Offload:
    """The loaded program, one that is being loaded while user space relays, or the reason why there is none."""

    def __init__(
        self, reason: str, settings: "OffloadSettings | None" = None, listen_ports: Sequence[int] = (STUN_PORT,)
    ) -> None:
        self._program: RelayOffload | None = None
        self._waiting = None if settings is None else _Waiting(settings)
        self._reason = reason
        self._listen_ports = frozenset(listen_ports)
        self._owners: dict[tuple[Endpoint, int], set[FiveTuple]] = {}
        self._refused = 0
        self._last_counters: Counters | None = None
        self._share: Callable[[Numbers | None], None] = lambda _: None

    @classmethod
    def prepare(
        cls, wish: OffloadWish | None, public: Mapping[int, IPAddress], listen_ports: Sequence[int]
    ) -> "Offload":
        """See what there is to load.

        Raises:
            FatalError: offload was demanded and cannot be had, or an interface does not exist.
        """
        if wish is None:
            return cls("not asked for")
        try:
            ebpf = _ebpf()
        except ImportError as error:
            if wish.mode != "auto":
                raise FatalError("cannot offload") from error
            _log.warning("Offload is off", extra={"fields": {"reason": chain(error)}})
            return cls(chain(error))
        served = tuple(dict.fromkeys(listen_ports))
        if len(served) > ebpf.MAX_LISTEN_PORTS:
            served, left = served[: ebpf.MAX_LISTEN_PORTS], served[ebpf.MAX_LISTEN_PORTS :]
            _log.warning("Too many listen ports to offload", extra={"fields": {"left": ",".join(map(str, left))}})
        settings = ebpf.OffloadSettings(
            interfaces=wish.interfaces,
            mode=wish.mode,
            listen_ports=served,
            public=tuple(public.values()),
            internal=wish.internal,
            generic_from_peer=wish.generic_from_peer,
        )
        try:
            ebpf.find_interfaces(wish.interfaces)
        except ebpf.OffloadError as error:
            raise FatalError("cannot offload") from error
        return cls("being loaded", settings, served)

    async def load(self) -> None:
        """Compile, load and attach in another thread, which takes seconds; then tell the program what there is by now.

        Raises:
            FatalError: offload was demanded and does not work.
        """
        if self._waiting is None:
            return
        ebpf = _ebpf()
        try:
            program = await asyncio.to_thread(ebpf.RelayOffload, self._waiting.settings)  # logs what became of it
        except ebpf.OffloadError as error:
            raise FatalError("cannot offload") from error
        self.adopt(program)

    def adopt(self, program: "RelayOffload") -> None:
        """Have this program forward from now on what the core has told; one that is off, or that nobody waits for any
        more, is closed.
        """
        waiting, self._waiting = self._waiting, None
        if waiting is None or program.mode == OFF:
            self._reason = program.reason
            program.close()
            return
        self._program, self._reason = program, program.reason
        self._share(program.bucket_memory)
        for bucket in waiting.buckets.values():
            self.set_bucket(bucket)
        for key, channel in waiting.channels.items():
            if len(self._owners.get(key, ())) == 1:
                self._install(channel)

    def share_buckets(self, share: Callable[[Numbers | None], None]) -> None:
        """Tell where the program's token buckets are, now or when they come, and when they have gone."""
        self._share = share
        if self._program is not None:
            share(self._program.bucket_memory)

    def set_bucket(self, bucket: SetBucket) -> None:
        """A user, or the whole relay, may move so much."""
        if self._waiting is not None:
            self._waiting.buckets[bucket.bucket] = bucket
        self._attempt(lambda program: program.set_bucket(bucket.bucket, bucket.bytes_per_second))

    def install(self, channel: InstallChannel) -> None:
        """A channel relays, or relays for longer."""
        has_use = self._program is not None or self._waiting is not None
        if not has_use or channel.five_tuple.server.port not in self._listen_ports:
            return
        key = (channel.five_tuple.client, channel.channel)
        owners = self._owners.setdefault(key, set())
        owners.add(channel.five_tuple)
        if self._waiting is not None:
            self._waiting.channels[key] = channel
        elif len(owners) > 1:
            self._attempt(lambda program: program.remove(*key))
        else:
            self._install(channel)

    def _install(self, channel: InstallChannel) -> None:
        client, server = channel.five_tuple.client, channel.five_tuple.server
        flow = _ebpf().ChannelFlow(
            client=client,
            channel=channel.channel,
            peer=channel.peer,
            relayed_port=channel.relayed_port,
            expires_at=channel.expires_at,
            local=server.ip,
            bucket=channel.bucket,
            listen_port=server.port,
        )
        if self._attempt(lambda program: program.install(flow)) is False:
            self._refused += 1
            if self._refused == 1:
                _log.warning("Offload is full, further channels stay in user space")

    def remove(self, channel: RemoveChannel) -> FlowCount:
        """A channel relays no longer. What the kernel relayed for it is told, because it is forgotten with this."""
        key = (channel.five_tuple.client, channel.channel)
        owners = self._owners.get(key, set())
        owners.discard(channel.five_tuple)
        if owners:
            return FlowCount()
        self._owners.pop(key, None)
        if self._waiting is not None:
            self._waiting.channels.pop(key, None)
        return _flow_count(self._attempt(lambda program: program.remove(*key)))

    def flow_counters(self, five_tuple: FiveTuple, channel: int) -> FlowCount:
        """What the kernel has relayed so far for a channel that it still has."""
        key = (five_tuple.client, channel)
        if self._owners.get(key) != {five_tuple}:
            return FlowCount()
        return _flow_count(self._attempt(lambda program: program.flow_counters(*key)))

    def fill(self) -> Fill | None:
        """For metrics; None without a program."""
        return self._attempt(lambda program: Fill(len(program), program.capacity, self._refused))

    async def maintain(self) -> None:
        """Let it follow the host's addresses and next hops, and test its egresses; every few seconds."""
        for _ in range(_LOOKS):
            program = self._program
            if program is None:
                return
            try:
                view = await asyncio.to_thread(program.look)
            except OSError as error:
                self._give_up(error)
                return
            if not self._follow(view):
                return

    def _follow(self, view: "View") -> bool:
        """Whether to look again at once."""
        self._attempt(lambda program: program.follow(view))
        return self._program is not None and self._program.has_test_due

    def status(self) -> OffloadStatus:
        """What health and metrics show."""
        if self._program is None:
            return OffloadStatus(OFF, self._reason, {}, is_loading=self._waiting is not None)
        return OffloadStatus(self._program.mode, self._program.reason, dict(self._program.egress_states()))

    def counters(self) -> "Counters | None":
        """What the kernel did, as long as it did; None if there never was a program."""
        counters = self._attempt(lambda program: program.counters())
        if counters is not None:
            self._last_counters = counters
        return self._last_counters

    def close(self) -> None:
        """Detach and unload; the counters stay."""
        self._waiting = None
        program, self._program = self._program, None
        if program is None:
            return
        self._reason = "closed"
        self._share(None)
        try:
            self._last_counters = program.counters()
        except OSError as error:
            _log.debug("Last counters are lost", extra={"fields": {"reason": chain(error)}})
        program.close()

    def _attempt(self, action: "Callable[[RelayOffload], T]") -> T | None:
        """Use the program; should it fail, go on without it."""
        if self._program is None:
            return None
        try:
            return action(self._program)
        except (OSError, _ebpf().OffloadError) as error:
            self._give_up(error)
            return None

    def _give_up(self, error: Exception) -> None:
        reason = chain(error)
        _log.warning("Offload failed and is off now", extra={"fields": {"reason": reason}})
        self.close()
        self._reason = reason


def _flow_count(counters: "FlowCounters | None") -> FlowCount:
    return FlowCount() if counters is None else FlowCount(*counters.to_peer, *counters.to_client)


def _ebpf() -> ModuleType:
    return importlib.import_module("ebpf")
