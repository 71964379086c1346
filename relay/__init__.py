"""The TURN relay: a sans-IO server in ``relay.core``, its asyncio shell in ``relay.driver``."""
