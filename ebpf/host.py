"""What of the host the offload works with: its interfaces, and the addresses that it answers for."""

import logging

from connectivity.endpoint import IPAddress
from ebpf import layout, netlink
from ebpf.netlink import Interface
from ebpf.settings import MAX_INTERFACES, OffloadError, OffloadSettings

_log = logging.getLogger("ebpf")


def find_interfaces(names: tuple[str, ...]) -> list[Interface]:
    """The interfaces of these names, all of them.

    Raises:
        OffloadError: there are too many or none, or one does not exist.
    """
    if not 0 < len(names) <= MAX_INTERFACES:
        raise OffloadError(f"expected 1 to {MAX_INTERFACES} interfaces to offload, got {len(names)}")
    found = {name: netlink.find_interface(name) for name in names}
    missing = [name for name, interface in found.items() if interface is None]
    if missing:
        raise OffloadError(f"no such network interface: {', '.join(missing)}")
    return [interface for interface in found.values() if interface is not None]


def own_addresses(
    settings: OffloadSettings, interfaces: list[Interface], on_host: frozenset[IPAddress]
) -> tuple[tuple[IPAddress, ...], dict[int, IPAddress]]:
    """The addresses that the program answers for, and the one that it sends from in each family.

    Behind a 1:1 NAT that is the internal one; else the interfaces' own and public ones that the host has on another
    interface, such as a loopback; a public one is preferred.
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
        present += [address for address in settings.public if address.version == version and address in on_host]
        present.sort(key=lambda address: address not in settings.public)
        chosen = list(dict.fromkeys(named or present))
        if len(chosen) > layout.MAX_OWN_ADDRESSES:
            _log.warning("more addresses than the program answers for", extra={"fields": {"addresses": len(chosen)}})
        own += chosen[: layout.MAX_OWN_ADDRESSES]
        if chosen:
            sources[version] = chosen[0]
    return tuple(own), sources
