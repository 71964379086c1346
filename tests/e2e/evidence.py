"""What every scenario has to leave clean: the logs of all parts, the checksums on the wire, the kernel's UDP counters.

Checksums are read where they are whole. A veth hands a frame on with a checksum that is still to be made, and merges
datagrams before a capture sees them; a bridge's port whose ``tx`` offload is off cuts and sums as a NIC does. So the
capture sits in the namespace ``internet`` and sees what leaves its ports: towards the relays (one side of the relay)
and towards the routers of client and gateway (what came out of the other). A datagram that a relay sent with a wrong
checksum is not merged, and not summed again: it stays wrong.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lab.plan import PORTAL
from lab.processes import wait_until
from lab.stack import Stack
from lab.topology import Lab
from tests.e2e.stage import PORTAL_AWAY, complaints

_ROUTERS: Final = ("client-nat", "gateway-nat")
_PORT: Final = re.compile(r"^\S+ (?P<port>\S+) +Out IP6? \(")
# Beside the sums that are wrong one that is left out: it stops GRO at the receiver.
_BAD: Final = re.compile(r"bad udp cksum|bad cksum|\[no cksum\]")
# Of the name server's answers on the bridge itself, and what it sends to the portal.
_NOT_SUMMED: Final = ("internet0", "portal")
_LAST: Final = b"the last datagram of a capture"
_SEND_LAST: Final = (
    f"import socket,sys; socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto({_LAST!r},(sys.argv[1],9))"
)
_BUFFER_KIB: Final = 65536


@dataclass(slots=True)
class Wire:
    """Datagrams that a capture has seen leave each port of the bridge, and those of them with a wrong checksum."""

    seen: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def read(self, lines: Sequence[str]) -> None:
        """Take the words of ``tcpdump -vv``: a datagram over IPv4 has two lines, the second without a port."""
        port = ""
        for line in lines:
            head = _PORT.match(line)
            port = head["port"] if head else port
            if port in _NOT_SUMMED:
                continue
            if head:
                self.seen[port] += 1
            if _BAD.search(line):
                self.bad.append(f"{port}: {line.strip()}")


@contextmanager
def captured(lab: Lab) -> Iterator[Wire]:
    """Watch all UDP that crosses the bridge; what was seen is there afterwards."""
    for router in _ROUTERS:
        lab.run(lab.internet, ["ethtool", "-K", router, "tx", "off"])
    wire = Wire()
    file = lab.logs / "wire.pcap"
    command = ["tcpdump", "-i", "any", "-Q", "out", "-B", str(_BUFFER_KIB), "-s", "0", "-U", "-w", str(file)]
    command += ["--immediate-mode", "udp"]  # else the last datagram may take a second to get there
    capture = lab.spawn("tcpdump", lab.internet, command)
    wait_until(lambda: "listening on" in capture.log_text(), "tcpdump listens", [capture])
    yield wire
    # What is still in the buffer would be lost with tcpdump: the last datagram tells that all before it are there.
    before = file.stat().st_size
    lab.run(lab.internet, [sys.executable, "-c", _SEND_LAST, PORTAL.address])
    wait_until(lambda: _LAST in _from(file, before), "the capture is complete", [capture])
    capture.terminate()
    wire.read(lab.run(lab.internet, ["tcpdump", "-nvv", "-r", str(file)]).splitlines())
    file.unlink()


def _from(file: Path, offset: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(offset)
        return opened.read()


def parts_of(lab: Lab) -> list[str]:
    """The programs of the stack that were started in a lab."""
    names = (process.name for process in lab.processes)
    return sorted({name for name in names if re.match(r"(portal|gateway|relay|client)(-\d+)?$", name)})


def prove(stack: Stack, wire: Wire, allowed: Sequence[str] = ()) -> None:
    """Hold a scenario that has ended to what each has to leave clean; ``allowed`` lines are part of what happened."""
    lab = stack.lab
    parts = parts_of(lab)
    logs = {part: (lab.logs / f"{part}.log").read_text(errors="replace") for part in parts}
    found = complaints(stack, logs, [PORTAL_AWAY, *allowed])
    assert not found, "\n".join(found)
    assert not wire.bad, "\n".join(wire.bad)
    relays = [part for part in parts if part.startswith("relay")]
    assert all(wire.seen[port] for port in (*relays, *_ROUTERS)), wire.seen
    assert lab.udp_errors([*parts, *_ROUTERS, "internet"]) == {part: {} for part in (*parts, *_ROUTERS, "internet")}
