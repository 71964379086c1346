"""A gateway once its portal is asked: the tunnel with its role, and what probes are told. Imported only then."""

import asyncio
import os
from typing import cast

from connectivity.clock import Instant
from connectivity.data_path import DataPath
from connectivity.io import status
from connectivity.io.opening import Opening
from connectivity.io.service import DEVICE, Role, run_tunnel
from connectivity.key_pair import KeyPair
from gateway.core import GatewayCore, GatewayRole
from gateway.extension import GatewayExtension
from gateway.login import MAX_PARTITION_SECONDS, TOPIC, make_login
from gateway.masquerade import Masquerade
from gateway.settings import GatewaySettings


async def serve(settings: GatewaySettings, opening: Opening) -> None:
    """Serve until a signal.

    Raises:
        FatalError, PortalFatal: what ended the gateway before.
    """

    def make_core(keys: KeyPair, now: Instant, data_path: DataPath | None = None) -> GatewayCore:
        return GatewayCore(keys=keys, rng=os.urandom, now=now, data_path=data_path)

    masquerade = Masquerade(DEVICE, settings.forward)
    ready = asyncio.Event()
    role = Role(
        TOPIC,
        make_core,
        make_login,
        GatewayRole.peer_field,
        MAX_PARTITION_SECONDS,
        make_extension=lambda host: GatewayExtension(host, cast(GatewayCore, host.core), masquerade, ready),
        workers=settings.workers,
    )
    # Ready from the portal's first word on: tunnels outlive its absence.
    health = await status.serve(settings.health_address, dict, ready=ready.is_set)
    try:
        await run_tunnel(settings.tunnel, role, opening=opening)
    finally:
        await health.close()
