"""What can be wrong with a single datagram or packet; the node goes on with the rest of the batch."""


class NodeError(Exception):
    """A packet that could not be handled; one of possibly many in a batch."""


class UnknownConnectionError(NodeError):
    """The packet names a connection that does not exist (any more)."""


class StrayDatagramError(NodeError):
    """Not from anybody who knows our key: what any host on the Internet can send to a UDP port."""


class NoRelaysError(NodeError):
    """A connection needs a relay and none is known: the portal has to be asked for some."""
