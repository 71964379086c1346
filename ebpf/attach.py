"""Attaching to interfaces, one mode for all of them.

A BPF link holds the program: it goes with the process, however that ends, and the kernel lets neither side replace the
other's program. A program of ours without a link is a leftover that was attached by netlink; it alone is replaced.
"""

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from ebpf import bpf_syscall, netlink
from ebpf.loader import PROGRAM_NAME
from ebpf.netlink import Interface
from ebpf.settings import OffloadError

AttachMode: TypeAlias = Literal["native", "generic"]
FLAGS: Final[dict[AttachMode, int]] = {"native": 1 << 2, "generic": 1 << 1}  # XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface that our program is on, until closed."""

    interface: Interface
    link_fd: int

    def close(self) -> None:
        """Take the program off."""
        os.close(self.link_fd)


def attach_all(program_fd: int, interfaces: Sequence[Interface], mode: AttachMode) -> list[Attachment]:
    """All or none.

    Raises:
        OffloadError: an interface refused; what had been attached is detached again.
    """
    attachments: list[Attachment] = []
    with ExitStack() as undo:
        for interface in interfaces:
            attachment = Attachment(interface, _attach(program_fd, interface, mode))
            undo.callback(attachment.close)
            attachments.append(attachment)
        undo.pop_all()
    return attachments


def attach_by_ladder(
    attach: Callable[[AttachMode], list[Attachment]], demand: Literal["auto", "native", "generic"]
) -> tuple[Literal["native", "generic", "off"], list[Attachment], str]:
    """The mode that worked, its attachments, and why it is not the best one. ``auto`` never raises."""
    modes: tuple[AttachMode, ...] = ("native", "generic") if demand == "auto" else (demand,)
    refusals: list[str] = []
    for mode in modes:
        try:
            return mode, attach(mode), "; ".join(refusals)
        except OffloadError as error:
            if demand != "auto":
                raise
            refusals.append(f"{error}: {error.__cause__}" if error.__cause__ else str(error))
    return "off", [], "; ".join(refusals)


def _attach(program_fd: int, interface: Interface, mode: AttachMode) -> int:
    try:
        return bpf_syscall.create_xdp_link(program_fd, interface.index, FLAGS[mode])
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EEXIST):
            raise OffloadError(f"cannot attach to {interface.name} in {mode} mode") from error
    _remove_leftover(interface)
    try:
        return bpf_syscall.create_xdp_link(program_fd, interface.index, FLAGS[mode])
    except OSError as error:
        raise OffloadError(f"cannot attach to {interface.name} in {mode} mode") from error


def _remove_leftover(interface: Interface) -> None:
    """Make room, if what is in the way is ours and nobody holds it.

    Raises:
        OffloadError: it is foreign, or another relay's.
    """
    present = netlink.find_interface(interface.name)
    if present is None or not present.program_id:
        return
    try:
        name = bpf_syscall.program_info_by_id(present.program_id).name
        is_held = any(link.program_id == present.program_id for link in bpf_syscall.xdp_links())
    except OSError as error:
        raise OffloadError(f"{interface.name} has an XDP program already (id {present.program_id})") from error
    if name != PROGRAM_NAME:
        raise OffloadError(
            f"{interface.name} has the XDP program {name!r} already (id {present.program_id}), which is not ours"
        )
    if is_held:
        raise OffloadError(f"{interface.name} is offloaded by another running relay (program id {present.program_id})")
    for flags in FLAGS.values():
        netlink.detach_program(interface.index, flags)
