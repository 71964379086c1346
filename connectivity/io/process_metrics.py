"""What all services tell of their process, under OpenTelemetry's names where it has some."""

import os
import resource
import time
from pathlib import Path
from typing import Final

from connectivity.io.exporters import installed_version
from connectivity.io.metric import Metric, one

_STARTED: Final = time.monotonic()
_PAGE_BYTES: Final = resource.getpagesize()


def collect(service: str) -> list[Metric]:
    """The metrics of this process."""
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [
        Metric(
            "postern.build",
            "gauge",
            "1",
            "Always 1: which version of which service runs",
            (({"service": service, "version": installed_version()}, 1),),
        ),
        Metric("process.uptime", "gauge", "s", "Since the process began", one(round(time.monotonic() - _STARTED, 3))),
        Metric("process.cpu.time", "counter", "s", "Processor time of the process", one(time.process_time())),
        Metric("process.memory.usage", "gauge", "By", "Memory that is resident", one(resident)),
        Metric(
            "process.unix.file_descriptor.count",
            "gauge",
            "{file_descriptor}",
            "File descriptors in use",
            one(len(os.listdir("/proc/self/fd"))),
        ),
        Metric(
            "postern.process.file_descriptors_max", "gauge", "{file_descriptor}", "File descriptors allowed", one(most)
        ),
    ]
