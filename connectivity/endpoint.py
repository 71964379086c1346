"""An IP address with a UDP or TCP port."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple, TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address
_PREFIX_BYTES: Final = {4: 4, 6: 8}


class Endpoint(NamedTuple):
    """A transport address. ``ip`` is never an IPv4-mapped IPv6 address: drivers unmap at the socket."""

    ip: IPAddress
    port: int

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """Read ``192.0.2.1:3478`` or ``[2001:db8::1]:3478``.

        Raises:
            ValueError: no port, a port outside 0 to 65535, or an address that is a name.
        """
        host, separator, port = text.rpartition(":")
        if not separator or not port.isascii() or not port.isdecimal() or int(port) > 0xFFFF:
            raise ValueError(f"expected address:port, got {text!r}")
        bracketed = host.startswith("[") and host.endswith("]")
        address = ip_address(host[1:-1] if bracketed else host)
        if bracketed != (address.version == 6):
            raise ValueError(f"expected address:port with brackets around IPv6 only, got {text!r}")
        return cls(address, int(port))

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


def source_of(ip: IPAddress) -> bytes:
    """What a limit by address counts as one: an IPv4 address, or the /64 of an IPv6 one, which one host may have."""
    return ip.packed[: _PREFIX_BYTES[ip.version]]
