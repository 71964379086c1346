"""Names at gateways: telling them the proxy addresses of a name, and what waits until they translate these (§11)."""

import logging
from typing import Final
from uuid import UUID

from client.dns.nat_states import NatKey, NatState, NatStates, key_of
from client.dns.records import Record
from client.drops import ClientDrop
from connectivity.clock import Instant
from connectivity.endpoint import IPAddress
from connectivity.p2p import DomainStatus
from connectivity.packet_queue import PacketQueue
from connectivity.role import RoleTunnel, TunnelDrop
from connectivity.run import Run

log = logging.getLogger("client")

HELD_PACKETS: Final = 32  # of one name
RENEWED_AT_ONCE: Final = 32  # names, the last ones: far below what a gateway looks up for a client at once


class NameTranslations:
    """All names at all gateways."""

    def __init__(self, tunnel: RoleTunnel) -> None:
        self._tunnel = tunnel
        self._states = NatStates()
        self._held: dict[NatKey, PacketQueue] = {}
        self._refused: dict[NatKey, None] = {}

    def __len__(self) -> int:
        """How many packets wait."""
        return sum(map(len, self._held.values()))

    def keep(
        self, gateway_id: str, record: Record, addresses: tuple[IPAddress, ...], run: Run, tos: int, now: Instant
    ) -> bool:
        """Packets are to go to a name: whether they wait here, because the gateway does not translate it yet."""
        key = key_of(gateway_id, record)
        message = self._states.want(key, addresses, now)
        if message is not None:
            self._tunnel.send_control(gateway_id, message, now)
        if self._states.state(key) is not NatState.HOLDING:
            return False
        held = self._held.setdefault(key, PacketQueue(HELD_PACKETS))
        self._tunnel.drops[TunnelDrop.QUEUE_FULL] += held.push(run, tos)
        return True

    def refresh(self, gateway_id: str, record: Record, addresses: tuple[IPAddress, ...], now: Instant) -> None:
        """The host asked for a name whose resource has a gateway."""
        message = self._states.refresh(key_of(gateway_id, record), addresses, now)
        if message is not None:
            self._tunnel.send_control(gateway_id, message, now)

    def refused(self, gateway_id: str, record: Record) -> None:
        """The gateway lets nothing to the name through: it may have forgotten it."""
        self._note_refused(key_of(gateway_id, record))

    def renew(self, gateway_id: str, resource_id: str, now: Instant) -> None:
        """The gateway was told of the resource (again): it is told of the names that it refused."""
        resource = UUID(resource_id)
        refused = [key for key in self._refused if key.gateway_id == gateway_id and key.resource == resource]
        for key in refused:
            del self._refused[key]
        for key in refused[-RENEWED_AT_ONCE:]:
            message = self._states.renew(key, now)
            if message is not None:
                self._tunnel.send_control(gateway_id, message, now)

    def handle_status(self, gateway_id: str, status: DomainStatus, now: Instant) -> None:
        """The gateway's word about a name."""
        key = self._states.settle(gateway_id, status)
        fields = {"gid": gateway_id, "rid": status.resource, "domain": status.domain, "active": status.active}
        log.debug(
            "Status of a name" if key is not None else "Status of a name nobody asked for", extra={"fields": fields}
        )
        if key is None:
            return
        if not status.active:
            self._note_refused(key)  # it may not know the resource; it does not say
            self._drop(key)
            return
        for packet, tos in self._take(key):
            self._tunnel.send(gateway_id, packet, tos, now)

    def forget(self, *, gateway_id: str | None = None, resource_id: str | None = None) -> None:
        """A gateway or a resource is gone."""
        resource = None if resource_id is None else UUID(resource_id)
        for key in [key for key in self._refused if gateway_id == key.gateway_id or resource == key.resource]:
            del self._refused[key]
        for key in self._states.forget(gateway_id=gateway_id, resource=resource):
            self._drop(key)

    def handle_timeout(self, now: Instant) -> None:
        """Tell gateways again, and give up."""
        repeated, given_up = self._states.handle_timeout(now)
        for gateway_id, message in repeated:
            self._tunnel.send_control(gateway_id, message, now)
        for key in given_up:
            self._drop(key)

    def poll_timeout(self) -> Instant | None:
        """When either is due."""
        return self._states.poll_timeout()

    def _note_refused(self, key: NatKey) -> None:
        """The last one is at the end."""
        self._refused.pop(key, None)
        self._refused[key] = None

    def _take(self, key: NatKey) -> list[tuple[bytes, int]]:
        held = self._held.pop(key, None)
        return [] if held is None else held.take()

    def _drop(self, key: NatKey) -> None:
        self._tunnel.drops[ClientDrop.NAME_FAILED] += len(self._take(key))
