"""``postern relay``: settings, the core with this process's secrets, then the event loop."""

import asyncio
import logging
import os
from dataclasses import replace
from typing import Final

from connectivity.io import descriptors, logs
from relay import admin
from relay.core import NonceMint, Server, StampSecretCredentials
from relay.core.nonce import SECRET_BYTES
from relay.driver.addresses import host_addresses, without_absent_families
from relay.driver.core_settings import credentials, server_settings
from relay.driver.life_cycle import serve
from relay.settings import read_settings

_log = logging.getLogger("relay")

STAMP_SECRET_BYTES: Final = 32


def run(arguments: list[str]) -> int:
    """Run the relay until a signal, or talk to one that runs."""
    if arguments[:1] == ["admin"]:
        return admin.run(arguments[1:])
    settings = read_settings(arguments)
    os.environ.pop("FIREZONE_TOKEN", None)  # no child of ours needs it
    settings.require_public_address()
    logs.configure(settings.log_filter, settings.log_format)
    for warning in settings.warnings:
        _log.warning(warning)
    descriptors.raise_limit()
    # For the life of this process: it is what makes reconnects to the portal keep all allocations.
    stamp_secret = os.urandom(STAMP_SECRET_BYTES).hex()
    settings = replace(settings, configuration=without_absent_families(settings.configuration))
    configuration, is_standalone = settings.configuration, settings.portal is None
    on_host = host_addresses()
    server = Server(
        server_settings(configuration, on_host, is_standalone=is_standalone),
        source=credentials(configuration) if is_standalone else StampSecretCredentials(stamp_secret),
        nonces=NonceMint(os.urandom(SECRET_BYTES)),
        rng=os.urandom,
    )
    asyncio.run(serve(settings, server, stamp_secret, on_host))
    return 0
