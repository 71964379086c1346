"""The kernel's counters in a namespace: UDP buffer and input errors, bytes through an interface."""

from typing import Final

from lab.network import execute

_ERRORS: Final = ("RcvbufErrors", "SndbufErrors", "InErrors", "MemErrors")
UDP_ERRORS: Final = frozenset(f"{family}{error}" for family in ("Udp", "Udp6") for error in _ERRORS)


def parse_nstat(text: str) -> dict[str, int]:
    """Counters by name from ``nstat -az``: name, value, rate; comment lines start with ``#``."""
    rows = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {row[0]: int(row[1]) for row in rows if len(row) >= 2}


def udp_errors(namespace: str) -> dict[str, int]:
    """The UDP errors that are not zero, since the namespace was made."""
    # -a absolute, -z zeros too, -s: leave the history file alone, it knows nothing of namespaces.
    found = parse_nstat(execute(namespace, ["nstat", "-azs"]))
    return {name: value for name, value in found.items() if name in UDP_ERRORS and value}


def udp_error_count(errors: dict[str, int]) -> int:
    """Datagrams lost, each counted once: the kernel includes the other receive errors in ``InErrors``."""
    return sum(count for name, count in errors.items() if name.endswith(("InErrors", "SndbufErrors")))


def interface_bytes(namespace: str, interface: str) -> tuple[int, int]:
    """Bytes received and sent by an interface."""
    base = f"/sys/class/net/{interface}/statistics"
    received, sent = execute(namespace, ["cat", f"{base}/rx_bytes", f"{base}/tx_bytes"]).split()
    return int(received), int(sent)
