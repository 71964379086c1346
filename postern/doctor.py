"""``postern doctor``: what this host lacks for each service, in words, and nothing on it is changed in the end.

What start-up does is tried, on a device of its own that goes away at once, rather than guessed.
"""

import os
import shutil
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

import ebpf
from client.system_dns import control, modes
from connectivity.errors import FatalError, chain
from connectivity.io import families, host
from connectivity.io.buffers import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES
from connectivity.io.service import DEVICE
from connectivity.io.tun import Tun
from connectivity.io.udp import UdpSocket
from connectivity.printable import printable
from connectivity.settings import SettingsReader
from gateway import firewall

_TUN: Final = Path("/dev/net/tun")
_SYSCTL: Final = Path("/proc/sys")
_PROBE: Final = "postern-doctor"
# For documentation (RFC 5737, RFC 3849): nobody's.
_ADDRESSES: Final = (IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
_ROUTES: Final = (IPv4Network("192.0.2.128/25"), IPv6Network("2001:db8:1::/64"))


class Remark(str):
    """What is so, and is worth knowing, but stands in nobody's way."""

    __slots__ = ()


def run(arguments: list[str]) -> int:
    """Print one block per concern, of one service or of all; 0 where nothing is missing, 1 otherwise."""
    reader = SettingsReader("doctor", arguments)
    words = reader.positional()
    known = sorted({service for services, _ in CONCERNS.values() for service in services})
    for word in words[1:]:
        reader.problem(f"{word!r} is not expected here")
    if words and words[0] not in known:
        reader.problem(f"{words[0]!r} is not a service to examine: expected one of {', '.join(known)}")
    reader.finish()
    healthy = True
    for concern, (services, examine) in CONCERNS.items():
        if words and words[0] not in services:
            continue
        problems = examine()
        is_fine = all(isinstance(problem, Remark) for problem in problems)
        healthy = healthy and is_fine
        print(f"{concern}: {'ok' if is_fine else ''}".rstrip())
        for problem in problems:
            print(f"  - {printable(problem)}")
    return 0 if healthy else 1


def tunnel() -> list[str]:
    """What client and gateway need for their device."""
    problems = []
    if not _TUN.is_char_device():
        problems.append(f"{_TUN} is missing (a privileged start makes it; a container needs it passed in)")
    elif not os.access(_TUN, os.R_OK | os.W_OK):
        problems.append(f"{_TUN} may not be opened by this user")
    problems += [line for line in ebpf.explain() if "CAP_NET_ADMIN" in line]
    return problems or [*_try_device(), *_try_sockets()]


def _try_device() -> list[str]:
    try:
        with Tun.create(_PROBE) as tun:
            refused = host.try_out(tun.name, _ADDRESSES, _ROUTES)
    except (FatalError, OSError) as error:
        return [chain(error)]
    return [_of_family(version, error, _PROBE) for version, error in refused.items()]


def _try_sockets() -> list[str]:
    found = []
    for version, any_address in ((4, "0.0.0.0"), (6, "::")):
        try:
            UdpSocket.bind(
                any_address, 0, mark=host.SOCKET_MARK, send_buffer_bytes=None, receive_buffer_bytes=None
            ).close()
        except OSError as error:
            found.append(_of_family(version, error, None))
    return found


def _of_family(version: int, error: OSError, device: str | None) -> str:
    if families.is_absent(error, version, device=device):
        return Remark(f"no IPv{version}, all goes by IPv{10 - version}: {chain(error)}")
    return f"IPv{version}: {chain(error)}"


def masquerading() -> list[str]:
    """What the gateway needs to give clients an address that resources can answer."""
    problems = [] if shutil.which("nft") else ["the command nft is missing (Debian package nftables)"]
    for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        sysctl = _SYSCTL / name
        try:
            enabled = sysctl.read_text(encoding="ascii").strip() == "1"
        except OSError as error:
            if not families.is_absent(error, 6 if "ipv6" in name else 4):
                problems.append(f"{sysctl} cannot be read: {chain(error)}")
            continue
        if not enabled and not os.access(sysctl, os.W_OK):
            problems.append(f"{sysctl} is 0 and cannot be set by this user")
    return problems + [str(finding) for finding in firewall.examine(DEVICE)]


def dns_control() -> list[str]:
    """Whether the client can have this host's names asked of it, in the mode that the environment names."""
    mode = os.environ.get(control.SETTING)
    if not mode:  # nobody has chosen yet
        return [Remark(f"the default does not work here: {line}") for line in modes.examine(control.DEFAULT, DEVICE)]
    if mode not in control.MODES:
        return [f"{control.SETTING} is {mode!r}: expected one of {', '.join(control.MODES)}"]
    return modes.examine(mode, DEVICE)


def udp() -> list[str]:
    """Offloads and buffers of UDP sockets."""
    problems = []
    try:
        opened = UdpSocket.bind("127.0.0.1", 0, send_buffer_bytes=None, receive_buffer_bytes=None)
    except OSError as error:
        return [f"no UDP socket: {chain(error)}"]
    try:
        problems += [] if opened.gso else ["the kernel has no UDP_SEGMENT: datagrams leave one by one"]
        problems += [] if opened.gro else ["the kernel has no UDP_GRO: datagrams arrive one by one"]
    finally:
        opened.close()
    for name, wanted in (("rmem_max", RECEIVE_BUFFER_BYTES), ("wmem_max", SEND_BUFFER_BYTES)):
        sysctl = _SYSCTL / "net/core" / name
        limit = int(sysctl.read_text(encoding="ascii"))
        if limit < wanted and os.geteuid() != 0:  # root needs no limit: SO_RCVBUFFORCE, SO_SNDBUFFORCE
            problems.append(f"{sysctl} is {limit}, the sockets ask for {wanted}: bursts may be lost")
    return problems


# What may be missing, for which services.
CONCERNS: Final[dict[str, tuple[frozenset[str], Callable[[], list[str]]]]] = {
    "relay offload (XDP)": (frozenset({"relay"}), ebpf.explain),
    "tunnel device": (frozenset({"gateway", "client"}), tunnel),
    "gateway masquerading": (frozenset({"gateway"}), masquerading),
    "DNS of this host": (frozenset({"client"}), dns_control),
    "UDP sockets": (frozenset({"relay", "gateway", "client"}), udp),
}
