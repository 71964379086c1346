"""What can be wrong with a single datagram or packet; the node goes on with the rest of the batch."""


class NodeError(Exception):
    """Datagrams that could not be handled, of possibly many in a batch.

    ``values`` are put into the braces of ``words`` only when somebody reads the error: most are but counted.
    """

    def __init__(self, words: str, *values: object, datagrams: int = 1) -> None:
        super().__init__(words, *values)
        self.datagrams = datagrams

    def __str__(self) -> str:
        words, *values = self.args
        text = words.format(*values) if values else words
        return text if self.datagrams == 1 else f"{text} ({self.datagrams} datagrams)"


class UnknownConnectionError(NodeError):
    """The packet names a connection that does not exist (any more)."""


class StrayDatagramError(NodeError):
    """Not from anybody who knows our key: what any host on the Internet can send to a UDP port."""


class NoRelaysError(NodeError):
    """A connection needs a relay and none is known: the portal has to be asked for some."""


def datagrams_of(error: Exception) -> int:
    """How many datagrams an error is about."""
    return error.datagrams if isinstance(error, NodeError) else 1
