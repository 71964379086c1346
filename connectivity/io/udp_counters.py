"""What UDP sockets did, counted where it happens."""

from dataclasses import dataclass


@dataclass(slots=True)
class UdpCounters:
    """What one socket (or several that share this object) did; read by whoever exports metrics."""

    batches_received: int = 0
    datagrams_received: int = 0
    batches_sent: int = 0
    datagrams_sent: int = 0
    receive_errors: int = 0
    received_unusable: int = 0  # truncated, without a destination address, or empty where nobody wants such
    send_errors: int = 0
    backlog_dropped: int = 0
    gso_failures: int = 0

    def count_passed(self, batches: int, datagrams: int) -> None:
        """So many datagrams came unopened and went by a ``PreparedSender``, in so many batches."""
        self.datagrams_received += datagrams
        self.batches_sent += batches
        self.datagrams_sent += datagrams
