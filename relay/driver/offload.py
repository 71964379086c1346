"""Keeps the kernel's forwarding in step with the core: a projection that may fail at any time and costs only speed.

The only importer of ``ebpf`` in the relay, and only when somebody asked for it. The kernel finds a flow by the client's
address and channel, without the address of ours that the client talks to; should one client use one channel number on
two of our addresses, neither is offloaded.
"""

import asyncio
import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Final, TypeVar

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import FatalError, chain
from relay.core import FiveTuple, InstallChannel, RemoveChannel
from relay.settings import OffloadWish

if TYPE_CHECKING:
    from ebpf import Counters, RelayOffload

OFF: Final = "off"

T = TypeVar("T")
_log = logging.getLogger("relay")


@dataclass(frozen=True, slots=True)
class OffloadStatus:
    """``mode`` is native, generic or off; ``egress`` is what the self-test of each interface found."""

    mode: str
    reason: str
    egress: dict[str, str]


class Offload:
    """The loaded program, or the reason why there is none."""

    def __init__(self, program: "RelayOffload | None", reason: str) -> None:
        self._program = program
        self._reason = reason
        self._owners: dict[tuple[Endpoint, int], set[FiveTuple]] = {}

    @classmethod
    def load(cls, wish: OffloadWish | None, public: Mapping[int, IPAddress], listen_port: int) -> "Offload":
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
        offload_settings = ebpf.OffloadSettings(
            interfaces=wish.interfaces,
            mode=wish.mode,
            listen_port=listen_port,
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
        return cls(program, program.reason)

    def install(self, channel: InstallChannel) -> None:
        """A channel relays, or relays for longer."""
        if self._program is None:
            return
        client, server, _ = channel.five_tuple
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
        )
        if self._attempt(lambda program: program.install(flow)) is False:
            _log.debug("Channel stays in user space", extra={"fields": {"channel": f"0x{channel.channel:04x}"}})

    def remove(self, channel: RemoveChannel) -> None:
        """A channel relays no longer."""
        if self._program is None:
            return
        key = (channel.five_tuple.client, channel.channel)
        owners = self._owners.get(key, set())
        owners.discard(channel.five_tuple)
        if not owners:
            self._owners.pop(key, None)
            self._attempt(lambda program: program.remove(*key))

    async def maintain(self) -> None:
        """Let it follow the host's addresses and next hops; every few seconds."""
        program = self._program
        if program is None:
            return
        try:
            view = await asyncio.to_thread(program.look)
        except OSError as error:
            self._give_up(error)
        else:
            self._attempt(lambda program: program.follow(view))

    def status(self) -> OffloadStatus:
        """What health and metrics show."""
        if self._program is None:
            return OffloadStatus(OFF, self._reason, {})
        return OffloadStatus(self._program.mode, self._program.reason, dict(self._program.egress_states()))

    def counters(self) -> "Counters | None":
        """What the kernel did; None without a program."""
        return self._attempt(lambda program: program.counters())

    def close(self) -> None:
        """Detach and unload."""
        if self._program is not None:
            self._program.close()
            self._program = None
            self._reason = "closed"

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


def _ebpf() -> ModuleType:
    return importlib.import_module("ebpf")
