"""``postern gateway``: settings, then the service."""

import asyncio
import importlib
import logging
import os

from connectivity.io import descriptors, status_socket
from connectivity.io.opening import Opening
from connectivity.io.tunnel_settings import configure_logs
from connectivity.key_pair import KeyPair
from gateway.login import MAX_PARTITION_SECONDS, TOPIC, make_login
from gateway.settings import GatewaySettings, read_settings

log = logging.getLogger("gateway")


def run(arguments: list[str]) -> int:
    """Run the gateway until a signal, or ask one that runs."""
    if arguments[:1] and arguments[0] in status_socket.COMMANDS:
        from connectivity.io import status_view  # what one that starts need not wait for

        return status_view.run("gateway", arguments)
    settings = read_settings(arguments)
    os.environ.pop("FIREZONE_TOKEN", None)  # no child of ours needs it
    configure_logs(settings.tunnel, "gateway")
    for warning in settings.warnings:
        log.warning(warning)
    descriptors.raise_limit()
    asyncio.run(_serve(settings))
    return 0


async def _serve(settings: GatewaySettings) -> None:
    keys = KeyPair.generate(os.urandom)
    opening = Opening(keys, make_login(settings.tunnel, keys), TOPIC, MAX_PARTITION_SECONDS)
    try:
        # In a thread, while the portal answers: most of what a gateway imports.
        await asyncio.to_thread(importlib.import_module, "gateway.serving")
        from gateway.serving import serve

        await serve(settings, opening)
    finally:
        await opening.close()
