"""TURN (RFC 8656): ChannelData, Firezone's credentials, and the client side of an allocation."""
