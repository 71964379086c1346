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
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import FatalError, chain
from relay.configuration import OffloadWish
from relay.core import FiveTuple, InstallChannel, RemoveChannel, SetBucket
from relay.core.configuration import STUN_PORT
from relay.core.quotas import Numbers

if TYPE_CHECKING:
    from ebpf import Counters, FlowCounters, RelayOffload, View

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

    def document(self) -> dict[str, Any]:
        """As JSON shows it."""
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


class Offload:
    """The loaded program, or the reason why there is none."""

    def __init__(self, program: "RelayOffload | None", reason: str, listen_ports: Sequence[int] = (STUN_PORT,)) -> None:
        self._program = program
        self._reason = reason
        self._listen_ports = frozenset(listen_ports)
        self._owners: dict[tuple[Endpoint, int], set[FiveTuple]] = {}
        self._refused = 0
        self._last_counters: Counters | None = None
        self._share: Callable[[Numbers | None], None] = lambda _: None

    @classmethod
    def load(cls, wish: OffloadWish | None, public: Mapping[int, IPAddress], listen_ports: Sequence[int]) -> "Offload":
        """Compile, load and attach; takes seconds.

        Raises:
            FatalError: offload was demanded and does not work, or an interface does not exist.
        """
        if wish is None:
            return cls(None, "not asked for")
        try:
            ebpf = _ebpf()
        except ImportError as error:
            if wish.mode != "auto":
                raise FatalError("cannot offload") from error
            _log.warning("Offload is off", extra={"fields": {"reason": chain(error)}})
            return cls(None, chain(error))
        served = tuple(dict.fromkeys(listen_ports))
        if len(served) > ebpf.MAX_LISTEN_PORTS:
            served, left = served[: ebpf.MAX_LISTEN_PORTS], served[ebpf.MAX_LISTEN_PORTS :]
            _log.warning("Too many listen ports to offload", extra={"fields": {"left": ",".join(map(str, left))}})
        offload_settings = ebpf.OffloadSettings(
            interfaces=wish.interfaces,
            mode=wish.mode,
            listen_ports=served,
            public=tuple(public.values()),
            internal=wish.internal,
            generic_from_peer=wish.generic_from_peer,
        )
        try:
            program = ebpf.RelayOffload(offload_settings)  # says in the log what became of it
        except ebpf.OffloadError as error:
            raise FatalError("cannot offload") from error
        if program.mode == OFF:
            program.close()
            return cls(None, program.reason)
        return cls(program, program.reason, served)

    def share_buckets(self, share: Callable[[Numbers | None], None]) -> None:
        """Tell where the program's token buckets are, and when they have gone."""
        if self._program is not None:
            self._share = share
            share(self._program.bucket_memory)

    def set_bucket(self, bucket: SetBucket) -> None:
        """A user, or the whole relay, may move so much."""
        self._attempt(lambda program: program.set_bucket(bucket.bucket, bucket.bytes_per_second))

    def install(self, channel: InstallChannel) -> None:
        """A channel relays, or relays for longer."""
        client, server = channel.five_tuple.client, channel.five_tuple.server
        if self._program is None or server.port not in self._listen_ports:
            return
        key = (client, channel.channel)
        owners = self._owners.setdefault(key, set())
        owners.add(channel.five_tuple)
        if len(owners) > 1:
            self._attempt(lambda program: program.remove(*key))
            return
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
        if self._program is None:
            return FlowCount()
        key = (channel.five_tuple.client, channel.channel)
        owners = self._owners.get(key, set())
        owners.discard(channel.five_tuple)
        if owners:
            return FlowCount()
        self._owners.pop(key, None)
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
            return OffloadStatus(OFF, self._reason, {})
        return OffloadStatus(self._program.mode, self._program.reason, dict(self._program.egress_states()))

    def counters(self) -> "Counters | None":
        """What the kernel did, as long as it did; None if there never was a program."""
        counters = self._attempt(lambda program: program.counters())
        if counters is not None:
            self._last_counters = counters
        return self._last_counters

    def close(self) -> None:
        """Detach and unload; the counters stay."""
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
