"""The devices this process has seen: stable ids and tunnel addresses per (type, owner, external id).

The search for a free address starts at a hash of the device's id, so a restarted portal gives the same addresses again
unless two devices' hashes meet and they come back in another order. The table is bounded: when it is full, the devices
that were offline for the longest time make room.
"""

from typing import Final

from portal.configuration import Configuration, TokenType
from portal.derivation import DEVICE_ADDRESSES, device_offset, named_id, psk_base, tunnel_addresses
from portal.login import DeviceLogin
from portal.session import Device

MAXIMUM_DEVICES: Final = 65_536


class Devices:
    """Clients and gateways, online or not."""

    def __init__(self) -> None:
        self._devices: dict[str, Device] = {}  # in the order of their last log-in
        self._gateways: dict[str, Device] = {}  # those among them
        self._offsets: dict[int, str] = {}

    def get(self, device_id: object, kind: TokenType) -> Device | None:
        """A known device of that type."""
        device = self._devices.get(device_id) if isinstance(device_id, str) else None
        return device if device is not None and device.type is kind else None

    def online_gateways(self, site_ids: tuple[str, ...]) -> list[Device]:
        """The gateways of some sites that have joined."""
        return [device for device in self._gateways.values() if device.session is not None and device.owner in site_ids]

    def find(self, login: DeviceLogin) -> Device | None:
        """The device of a log-in; None when the table is full of online devices."""
        token = login.token
        owner = token.actor if token.type is TokenType.CLIENT else token.site_id
        device_id = named_id(token.type.value, f"{owner}:{login.external_id}")
        device = self._devices.pop(device_id, None)
        if device is None:
            if len(self._devices) >= MAXIMUM_DEVICES and not self._evict():
                return None
            ipv4, ipv6 = tunnel_addresses(self._claim(device_id))
            device = Device(device_id, token.type, owner, login.name, ipv4, ipv6)
        self._devices[device_id] = device
        if device.type is TokenType.GATEWAY:
            self._gateways[device_id] = device
        return device

    def identify(self, device: Device, login: DeviceLogin, configuration: Configuration) -> None:
        """A device has joined: from now on it is what it says about itself. Clients keep their first name."""
        if device.type is TokenType.GATEWAY:
            device.name = login.name
        device.public_key, device.version = login.public_key, login.version
        device.psk_base = psk_base(configuration.secret or login.token.text, device.id)

    def _claim(self, device_id: str) -> int:
        start = device_offset(device_id)
        upward = range(start, DEVICE_ADDRESSES - 1)
        offset = next((entry for entry in upward if entry not in self._offsets), None)
        if offset is None:
            offset = next(entry for entry in range(start - 1, 1, -1) if entry not in self._offsets)
        self._offsets[offset] = device_id
        return offset

    def _evict(self) -> bool:
        victim = next((device for device in self._devices.values() if device.session is None), None)
        if victim is None:
            return False
        del self._devices[victim.id]
        self._gateways.pop(victim.id, None)
        self._offsets = {offset: owner for offset, owner in self._offsets.items() if owner != victim.id}
        return True
