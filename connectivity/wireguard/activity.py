"""What has passed between us and a peer, in plain values: written by whoever carries packets, read by timers.

``since`` is when something began that is still so, None if it is not. Everything here may be copied field by field,
which is how it comes back from another process.
"""

from connectivity.clock import Instant


class Activity:
    """Of one peer, of the session established last where that is said."""

    __slots__ = (
        "has_heard",
        "has_received_data",
        "has_sent_data",
        "last_data_at",
        "received_bytes",
        "sent_bytes",
        "unacknowledged_since",
        "unanswered_since",
    )

    def __init__(self, now: Instant) -> None:
        self.last_data_at = now  # either way
        self.sent_bytes = 0  # of IP packets
        self.received_bytes = 0  # likewise, padded as they came
        self.has_sent_data = False  # since the last handshake
        self.has_received_data = False  # likewise
        self.has_heard = False  # anything authentic, in a series of handshakes
        self.unanswered_since: Instant | None = None  # the first data sent that nothing authentic has come after
        self.unacknowledged_since: Instant | None = None  # the first data received that nothing was sent after

    def note_sent(self, now: Instant, num_bytes: int) -> None:
        """Data was sent. Called for each batch."""
        self.last_data_at = now
        self.sent_bytes += num_bytes
        self.has_sent_data = True
        self.unacknowledged_since = None
        if self.unanswered_since is None:
            self.unanswered_since = now

    def note_received(self, now: Instant, num_bytes: int) -> None:
        """Data was received. Called for each batch."""
        self.last_data_at = now
        self.received_bytes += num_bytes
        self.has_received_data = self.has_heard = True
        self.unanswered_since = None
        if self.unacknowledged_since is None:
            self.unacknowledged_since = now

    def note_keep_alive(self) -> None:
        """A keep-alive was received."""
        self.has_heard = True
        self.unanswered_since = None
