"""``postern relay``: settings, the core with this process's secrets, then the event loop."""

import asyncio
import logging
import os
from dataclasses import replace
from typing import Final

from connectivity.io import descriptors, logs
from relay.core import NonceMint, Server, StampSecretCredentials
from relay.core.nonce import SECRET_BYTES
from relay.core.own import NO_ADDRESSES
from relay.driver.addresses import without_absent_families
from relay.driver.core_settings import credentials, server_settings
from relay.driver.life_cycle import serve
from relay.settings import is_check, read_settings

_log = logging.getLogger("relay")

STAMP_SECRET_BYTES: Final = 32


def run(arguments: list[str]) -> int:
    """Run the relay until a signal, talk to one that runs, or write the file for one."""
    # A relay that starts need not wait for what the others need.
    if arguments[:1] == ["admin"]:
        from relay import admin

        return admin.run(arguments[1:])
    if arguments[:1] == ["import-coturn"]:
        from relay import import_coturn

        return import_coturn.run(arguments[1:])
    if is_check(arguments):
        from relay import check

        return check.run(arguments)
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
    server = Server(
        server_settings(configuration, NO_ADDRESSES, is_standalone=is_standalone),  # the host's follow before traffic
        source=credentials(configuration) if is_standalone else StampSecretCredentials(stamp_secret),
        nonces=NonceMint(os.urandom(SECRET_BYTES)),
        rng=os.urandom,
    )
    asyncio.run(serve(settings, server, stamp_secret))
    return 0
