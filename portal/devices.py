"""The devices this process has seen: stable ids and tunnel addresses per (type, entry of the tokens, external id).

A device belongs to the entry whose token it came with: another entry's device is another one, whatever it calls itself.
The search for a free address starts where an HMAC of the device's id says, so a restarted portal gives the same
addresses again unless two devices' starts meet and they come back in another order; the newcomer gets another one.

Who owns tokens could still try external ids until an address is the one he wants. So an entry has a bounded number of
devices, and a place is free again only an hour after its device was seen. The whole table is bounded too: when it is
full, the device that was offline for the longest time makes room.
"""

from typing import Final

from connectivity.clock import SECOND, Instant
from portal.budgets import Allowance
from portal.configuration import Configuration, TokenType
from portal.derivation import DEVICE_ADDRESSES, device_id, device_offset, psk_base, tunnel_addresses
from portal.login import DeviceLogin
from portal.session import Device

MAXIMUM_DEVICES: Final = 65_536
# Trying half of all addresses with one token takes more than a month; no fleet behind one token has so many devices.
MAXIMUM_DEVICES_PER_TOKEN: Final = 1024
FORGOTTEN_AFTER_NS: Final = 3600 * SECOND


class Devices:
    """Clients and gateways, online or not."""

    def __init__(self) -> None:
        self._devices: dict[str, Device] = {}  # in the order of their last log-in
        self._gateways: dict[str, Device] = {}  # those among them
        self._offsets: dict[int, str] = {}
        self._entries: dict[str, dict[str, Device]] = {}  # in the order of their last log-in, too

    def get(self, device_id: object, kind: TokenType) -> Device | None:
        """A known device of that type."""
        device = self._devices.get(device_id) if isinstance(device_id, str) else None
        return device if device is not None and device.type is kind else None

    def counts(self) -> dict[TokenType, int]:
        """How many are known."""
        gateways = len(self._gateways)
        return {TokenType.CLIENT: len(self._devices) - gateways, TokenType.GATEWAY: gateways}

    def online_gateways(self, site_ids: tuple[str, ...]) -> list[Device]:
        """The gateways of some sites that have joined."""
        return [device for device in self._gateways.values() if device.session is not None and device.owner in site_ids]

    def has_room(self, login: DeviceLogin, now: Instant) -> bool:
        """Whether the device is known, or its entry may have one more."""
        token = login.token
        held = self._entries.get(token.name, {})
        if device_id(token.type, token.name, login.external_id) in held or len(held) < MAXIMUM_DEVICES_PER_TOKEN:
            return True
        return _forgettable(held, now) is not None

    def find(self, login: DeviceLogin, secret: str, now: Instant) -> Device | None:
        """The device of a log-in; None when its entry has too many, or the table is full of online devices."""
        token = login.token
        found_id = device_id(token.type, token.name, login.external_id)
        device = self._devices.get(found_id)
        if device is None:
            if not self._make_room(token.name, now):
                return None
            offset = self._claim(found_id, secret)
            ipv4, ipv6 = tunnel_addresses(offset)
            device = Device(
                found_id,
                token.type,
                token.name,
                offset,
                login.owner,
                login.name,
                ipv4,
                ipv6,
                Allowance(token.type, now),
            )
        device.seen_at = now
        for table in (self._devices, self._entries.setdefault(token.name, {})):
            table.pop(found_id, None)
            table[found_id] = device
        if device.type is TokenType.GATEWAY:
            self._gateways[found_id] = device
        return device

    def identify(self, device: Device, login: DeviceLogin, configuration: Configuration) -> None:
        """A device has joined: from now on it is what it says about itself. Clients keep their first name."""
        if device.type is TokenType.GATEWAY:
            device.name = login.name
        device.owner = login.owner  # its entry may have another one than when it came first
        device.public_key, device.version = login.public_key, login.version
        device.psk_base = psk_base(configuration.secret, device.id)

    def _claim(self, found_id: str, secret: str) -> int:
        start = device_offset(secret, found_id)
        upward = range(start, DEVICE_ADDRESSES - 1)
        offset = next((entry for entry in upward if entry not in self._offsets), None)
        if offset is None:
            offset = next(entry for entry in range(start - 1, 1, -1) if entry not in self._offsets)
        self._offsets[offset] = found_id
        return offset

    def _make_room(self, entry: str, now: Instant) -> bool:
        held = self._entries.get(entry, {})
        if len(held) >= MAXIMUM_DEVICES_PER_TOKEN:
            own = _forgettable(held, now)
            if own is None:
                return False
            self._forget(own)
        if len(self._devices) >= MAXIMUM_DEVICES:
            longest = next((device for device in self._devices.values() if device.session is None), None)
            if longest is None:
                return False
            self._forget(longest)
        return True

    def _forget(self, device: Device) -> None:
        del self._devices[device.id]
        del self._offsets[device.offset]
        self._gateways.pop(device.id, None)
        held = self._entries[device.entry]
        del held[device.id]
        if not held:
            del self._entries[device.entry]


def _forgettable(held: dict[str, Device], now: Instant) -> Device | None:
    for device in held.values():
        if device.session is None and now - device.seen_at >= FORGOTTEN_AFTER_NS:
            return device
    return None
