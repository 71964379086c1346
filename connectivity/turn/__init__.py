"""TURN (RFC 8656): ChannelData, Firezone's credentials, and the client side of an allocation.

Nothing is re-exported: the portal needs ``credentials`` alone and shall not load numpy for it.
"""
