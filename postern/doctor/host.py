"""What a service needs of its host: the kernel, devices, privileges, programs, limits.

What start-up does is tried, on a device of its own that goes away at once, rather than guessed.
"""

import os
import re
import shutil
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

import ebpf
from client.system_dns import control, modes
from connectivity import native
from connectivity.errors import FatalError, chain
from connectivity.io import families, host
from connectivity.io.buffers import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES
from connectivity.io.service import DEVICE
from connectivity.io.tun import Tun
from connectivity.io.udp import UdpSocket
from gateway import firewall
from postern.doctor import start_up
from postern.doctor.finding import Finding, remark

_TUN: Final = Path("/dev/net/tun")
_SYSCTL: Final = Path("/proc/sys")
_PROBE: Final = "postern-doctor"
# For documentation (RFC 5737, RFC 3849): nobody's.
_ADDRESSES: Final = (IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
_STRICT: Final = 1
_MOST_NAMED: Final = 4
_KERNEL: Final = "Linux 5.0 or newer"
_IPV6_REMEDY: Final = "nothing, or sysctl -w net.ipv6.conf.all.disable_ipv6=0 if IPv6 is wanted"
_OFFLOAD_REMEDIES: Final = {
    "too old": "a newer kernel (Debian 12 has 6.1), or POSTERN_EBPF=off",
    "bpf(2)": "a container needs a seccomp profile that lets bpf(2) pass; or POSTERN_EBPF=off",
    "bcc": "apt-get install python3-bpfcc",
    "headers": "apt-get install linux-headers-amd64 (or -arm64)",
}
_ROUTES: Final = (IPv4Network("192.0.2.128/25"), IPv6Network("2001:db8:1::/64"))


def tunnel() -> list[Finding]:
    """What client and gateway need for their device."""
    problems = []
    if not _TUN.is_char_device():
        remedy = "start it with CAP_MKNOD once, or modprobe tun; a container needs --device /dev/net/tun"
        problems.append(Finding(f"{_TUN} is missing", remedy))
    elif not os.access(_TUN, os.R_OK | os.W_OK):
        problems.append(Finding(f"{_TUN} may not be opened by this user", f"chmod 0666 {_TUN}, or run it as root"))
    problems += [finding for finding in offload() if "CAP_NET_ADMIN" in finding.what]
    return problems or [*_try_device(), *_try_sockets()]


def _try_device() -> list[Finding]:
    try:
        with Tun.create(_PROBE) as tun:
            refused = host.try_out(tun.name, _ADDRESSES, _ROUTES)
    except (FatalError, OSError) as error:
        return [Finding(chain(error), "end what has the device, or give this user CAP_NET_ADMIN")]
    return [_of_family(version, error, _PROBE) for version, error in refused.items()]


def _try_sockets() -> list[Finding]:
    found = []
    for version, any_address in ((4, "0.0.0.0"), (6, "::")):
        try:
            UdpSocket.bind(
                any_address, 0, mark=host.SOCKET_MARK, send_buffer_bytes=None, receive_buffer_bytes=None
            ).close()
        except OSError as error:
            found.append(_of_family(version, error, None))
    return found


def _of_family(version: int, error: OSError, device: str | None) -> Finding:
    if families.is_absent(error, version, device=device):
        what = f"no IPv{version}, all goes by IPv{10 - version}: {chain(error)}"
        return remark(what, "nothing, unless resources or peers have no other" if version == 4 else _IPV6_REMEDY)
    return Finding(f"IPv{version}: {chain(error)}", "run it as root or with CAP_NET_ADMIN")


def masquerading() -> list[Finding]:
    """What the gateway needs to give clients an address that resources can answer."""
    missing = Finding("the command nft is missing", "apt-get install nftables")
    problems = [] if shutil.which("nft") else [missing]
    for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        sysctl = _SYSCTL / name
        remedy = f"sysctl -w {name.replace('/', '.')}=1 on the host"
        try:
            enabled = sysctl.read_text(encoding="ascii").strip() == "1"
        except OSError as error:
            if not families.is_absent(error, 6 if "ipv6" in name else 4):
                problems.append(Finding(f"{sysctl} cannot be read: {chain(error)}", remedy))
            continue
        if not enabled and not os.access(sysctl, os.W_OK):
            problems.append(Finding(f"{sysctl} is 0 and cannot be set by this user", remedy))
    for found in firewall.examine(DEVICE):
        what = f"chain {found.chain} of table {found.table} ({found.hook}) drops the tunnel's traffic"
        problems.append(Finding(what, found.remedy))
    return problems


def source_validation() -> list[Finding]:
    """Whether the kernel drops answers to marked packets because it looks for their way back without the mark."""
    folder = _SYSCTL / "net/ipv4/conf"
    if _number(folder / "all/src_valid_mark"):
        return []
    everywhere = _number(folder / "all/rp_filter")
    strict = sorted(
        path.parent.name
        for path in folder.glob("*/rp_filter")
        if path.parent.name not in {"all", "default", "lo"} and max(everywhere, _number(path)) == _STRICT
    )
    if not strict:
        return []
    named = ", ".join(strict[:_MOST_NAMED]) + (" and others" if strict[_MOST_NAMED:] else "")
    what = f"rp_filter is 1 (strict) for {named}: answers from outside a tunnel that takes all traffic are dropped"
    return [remark(what, "sysctl -w net.ipv4.conf.all.src_valid_mark=1, or rp_filter=2 (loose)")]


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0  # no such interface any more, no such setting: as by default


def offload() -> list[Finding]:
    """What stands in the way of the relay's offload."""
    return [Finding(line, _remedy_of_offload(line)) for line in ebpf.explain()]


def _remedy_of_offload(line: str) -> str:
    if found := re.search(r"privilege (CAP_\w+)", line):
        return f"give it {found[1]} (dist/postern-relay-offload.conf has all), run it as root, or set POSTERN_EBPF=off"
    return next((remedy for words, remedy in _OFFLOAD_REMEDIES.items() if words in line), "set POSTERN_EBPF=off")


def dns_control() -> list[Finding]:
    """Whether the client can have this host's names asked of it, in the mode that the environment names."""
    mode = start_up.variables("client").get(control.SETTING)
    if not mode:  # nobody has chosen yet; it ends the start of a client that has its token already
        lines = [f"the default does not work here: {line}" for line in modes.examine(control.DEFAULT, DEVICE)]
        hinders = (start_up.FOLDER / "client.token").exists()
        return [Finding(line, f"set {control.SETTING} to a mode that does", hinders) for line in lines]
    if mode not in control.MODES:
        expected = f"expected one of {', '.join(control.MODES)}"
        return [Finding(f"{control.SETTING} is {mode!r}: {expected}", "correct it")]
    return [Finding(line, f"another {control.SETTING}") for line in modes.examine(mode, DEVICE)]


def compiled_helper() -> list[Finding]:
    """Whether runs of packets are handled by the compiled helper; Python does it as well, for more."""
    try:
        native.load()
    except native.NoHelper as error:
        return [remark(f"Python does its work: {chain(error)}", "nothing, or a build with a C compiler")]
    return []


def udp() -> list[Finding]:
    """Offloads and buffers of UDP sockets."""
    problems = []
    try:
        opened = UdpSocket.bind("127.0.0.1", 0, send_buffer_bytes=None, receive_buffer_bytes=None)
    except OSError as error:
        return [Finding(f"no UDP socket: {chain(error)}", "the sandbox of this process has to let it")]
    try:
        problems += (
            [] if opened.gso else [Finding("the kernel has no UDP_SEGMENT: datagrams leave one by one", _KERNEL)]
        )
        problems += [] if opened.gro else [Finding("the kernel has no UDP_GRO: datagrams arrive one by one", _KERNEL)]
    finally:
        opened.close()
    for name, wanted in (("rmem_max", RECEIVE_BUFFER_BYTES), ("wmem_max", SEND_BUFFER_BYTES)):
        sysctl = _SYSCTL / "net/core" / name
        limit = int(sysctl.read_text(encoding="ascii"))
        if limit < wanted and os.geteuid() != 0:  # root needs no limit: SO_RCVBUFFORCE, SO_SNDBUFFORCE
            what = f"{sysctl} is {limit}, the sockets ask for {wanted}: bursts may be lost"
            problems.append(Finding(what, f"sysctl -w net.core.{name}={wanted}, or give it CAP_NET_ADMIN"))
    return problems
