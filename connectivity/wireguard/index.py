"""Session indices: 24 bits name the connection, the low 8 bits count its handshake messages.

Only the side that chose an index interprets it, so one receiver index is enough to find the connection of a message
wherever it came from. The counter is raised before use (its first value is 1) and wraps inside the low byte.
"""

from typing import Final

CONNECTION_LIMIT: Final = 1 << 24


class IndexSequence:
    """The indices of one connection, one per handshake message that we send."""

    __slots__ = ("_connection", "_counter")

    def __init__(self, connection_index: int) -> None:
        if not 0 <= connection_index < CONNECTION_LIMIT:
            raise ValueError(f"a connection index has 24 bits, got {connection_index}")
        self._connection = connection_index
        self._counter = 0

    def next(self) -> int:
        """The next 32-bit index."""
        self._counter = (self._counter + 1) & 0xFF
        return self._connection << 8 | self._counter


def connection_of(index: int) -> int:
    """The 24 bits that name the connection."""
    return index >> 8


def format_index(index: int) -> str:
    """``(connection|session)`` in decimal."""
    return f"({index >> 8}|{index & 0xFF})"
