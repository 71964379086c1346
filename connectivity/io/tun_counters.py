"""What a TUN device did, counted where it happens."""

from dataclasses import dataclass


@dataclass(slots=True)
class TunCounters:
    """What the device did; read by whoever exports metrics."""

    packets_read: int = 0
    super_packets_read: int = 0
    unusable: int = 0
    fragments: int = 0  # of these
    packets_written: int = 0
    super_packets_written: int = 0
    write_errors: int = 0
    write_dropped: int = 0  # the device's queue was full, or too much came before the device was ready
    offload_failures: int = 0
    host_dropped: int = 0  # by the kernel: sent into the device faster than it is read; as of the last look
