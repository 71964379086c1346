"""``postern relay``: settings, the core with this process's secrets, then the event loop."""

import asyncio
import os
from typing import Final

from connectivity.endpoint import IPAddress
from connectivity.io import logs
from connectivity.phoenix import COMPONENT_VERSIONS
from relay.core import NonceMint, PeerPolicy, Server, ServerSettings, StampSecretCredentials
from relay.core.nonce import SECRET_BYTES
from relay.driver.addresses import always_own_addresses, host_addresses
from relay.driver.service import make_stamp_secret, serve
from relay.driver.sockets import raise_descriptor_limit
from relay.settings import RelaySettings, read_settings

SOFTWARE: Final = f"postern-relay/{COMPONENT_VERSIONS['relay']}"


def run(arguments: list[str]) -> int:
    """Run the relay until a signal."""
    settings = read_settings(arguments)
    settings.require_public_address()
    logs.configure(settings.log_filter)
    raise_descriptor_limit()
    stamp_secret = make_stamp_secret()
    server = Server(
        server_settings(settings, host_addresses()),
        source=StampSecretCredentials(stamp_secret),
        nonces=NonceMint(os.urandom(SECRET_BYTES)),
        rng=os.urandom,
    )
    asyncio.run(serve(settings, server, stamp_secret))
    return 0


def server_settings(settings: RelaySettings, on_host: frozenset[IPAddress]) -> ServerSettings:
    """What the core needs of them. A public address that this host has is also what peers see as source."""
    own = on_host | always_own_addresses(settings)
    return ServerSettings(
        public=settings.public,
        policy=PeerPolicy(under_portal=True, allow=settings.peers_allow, deny=settings.peers_deny, own=own),
        software=SOFTWARE,
        listen_ports=frozenset({settings.listen_port}),
        lowest_port=settings.lowest_port,
        highest_port=settings.highest_port,
        sources={version: ip for version, ip in settings.public.items() if ip in on_host},
    )
