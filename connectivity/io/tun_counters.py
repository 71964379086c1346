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
    write_dropped: int = 0  # the device's queue was full
    offload_failures: int = 0
