"""What stands in the way of the offload on this host, in words."""

import errno
import platform
import re
from pathlib import Path
from typing import Final

from ebpf import bpf_syscall
from ebpf.headers import find_headers
from ebpf.loader import bcc_problem
from ebpf.settings import OffloadError

MINIMUM_KERNEL: Final = (5, 18)  # live test frames
_CAPABILITIES: Final = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_PERFMON": 38, "CAP_BPF": 39}
_CAP_SYS_ADMIN: Final = 21  # contains CAP_BPF and CAP_PERFMON


def explain() -> list[str]:
    """One line per obstacle; empty where the offload should load."""
    problems = [_kernel_problem(platform.release()), _syscall_problem(), bcc_problem()]
    problems += missing_capabilities(Path("/proc/self/status").read_text())
    try:
        find_headers()
    except OffloadError as error:
        problems.append(str(error))
    return [problem for problem in problems if problem]


def hopeless() -> list[str]:
    """Those of the obstacles with which there is no use in compiling, which takes seconds and much memory."""
    missing = missing_capabilities(Path("/proc/self/status").read_text())
    problems = [_syscall_problem(), *(line for line in missing if "CAP_BPF" in line)]
    return [problem for problem in problems if problem]


def missing_capabilities(status: str) -> list[str]:
    """What ``/proc/self/status`` says is missing."""
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    held = int(match[1], 16) if match else 0
    is_almighty = held >> _CAP_SYS_ADMIN & 1
    reasons = {
        "CAP_NET_ADMIN": "to attach to interfaces",
        "CAP_NET_RAW": "for the egress self-test",
        "CAP_PERFMON": "for packet access in programs",
        "CAP_BPF": "to load programs and maps",
    }
    return [
        f"the privilege {name} is missing ({reasons[name]})"
        for name, bit in _CAPABILITIES.items()
        if not held >> bit & 1 and not (is_almighty and name in ("CAP_PERFMON", "CAP_BPF"))
    ]


def _kernel_problem(release: str) -> str:
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers and (int(numbers[1]), int(numbers[2])) < MINIMUM_KERNEL:
        return f"Linux {release} is too old: the program needs {MINIMUM_KERNEL[0]}.{MINIMUM_KERNEL[1]}"
    return ""


def _syscall_problem() -> str:
    try:
        for _ in bpf_syscall.xdp_links():
            break
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return f"bpf(2) is not available: {error.strerror}"
        # EPERM says that CAP_SYS_ADMIN is missing, which only looking at others' programs needs.
    return ""
