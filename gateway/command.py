"""``postern gateway``: settings, then the service."""

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from connectivity.clock import Instant
from connectivity.endpoint import Endpoint
from connectivity.io import descriptors, status_view
from connectivity.io.identity import load_or_create
from connectivity.io.portal import read_system_info
from connectivity.io.service import DEVICE, Role, run_tunnel
from connectivity.io.status import serve
from connectivity.io.tunnel_settings import TunnelSettings, configure_logs, read_tunnel_settings
from connectivity.phoenix.login import PortalLogin, gateway_login, user_agent
from connectivity.settings import SettingsReader
from connectivity.wireguard import KeyPair
from gateway.core import GatewayCore, GatewayRole
from gateway.extension import GatewayExtension
from gateway.masquerade import Forward, Masquerade

log = logging.getLogger("gateway")

DEFAULT_API_URL: Final = "wss://api.firezone.dev"
DEFAULT_ID_PATH: Final = Path("/var/lib/firezone/gateway_id")
MAX_PARTITION_SECONDS: Final = 15 * 60.0


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What only the gateway has."""

    tunnel: TunnelSettings
    health_address: Endpoint
    forward: Forward | None
    warnings: tuple[str, ...] = ()


def read_settings(arguments: list[str]) -> GatewaySettings:
    """Read and check everything; the token may also be the one positional argument."""
    reader = SettingsReader("gateway", arguments)
    words = reader.positional()
    for extra in words[1:]:
        reader.problem(f"{extra!r} is not expected here")
    token = reader.token_argument(words[0]) if words else None
    health = reader.optional(
        "HEALTH_CHECK_ADDR", "--health-check-addr", Endpoint.parse, Endpoint.parse("0.0.0.0:8080"), "address:port"
    )
    forward = reader.optional(
        "POSTERN_FORWARD", "--forward", _forward, None, "tunnel: the host forwards nothing else; host: as without us"
    )
    reader.switch(None, "--no-check", "accepted; privileges show when they are needed")
    reader.switch("FIREZONE_VALIDATE_CHECKSUMS", "--validate-checksums", "accepted; checksums are always validated")
    tunnel = read_tunnel_settings(
        reader, "gateway", token=token, default_api_url=DEFAULT_API_URL, raise_limits_by_default=True
    )
    reader.finish()
    return GatewaySettings(tunnel, health, forward, tuple(reader.warnings))


def run(arguments: list[str]) -> int:
    """Run the gateway until a signal, or ask one that runs."""
    if arguments[:1] and arguments[0] in status_view.COMMANDS:
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
    def make_core(keys: KeyPair, now: Instant) -> GatewayCore:
        return GatewayCore(keys=keys, rng=os.urandom, now=now)

    def make_login(tunnel: TunnelSettings, keys: KeyPair) -> PortalLogin:
        return gateway_login(
            tunnel.api_url,
            token=tunnel.token,
            device_id=tunnel.device_id or load_or_create(DEFAULT_ID_PATH),
            name=tunnel.name,
            public_key=keys.public,
            user_agent=user_agent("gateway", read_system_info()),
        )

    masquerade = Masquerade(DEVICE, settings.forward)
    ready = asyncio.Event()
    role = Role(
        "gateway",
        make_core,
        make_login,
        GatewayRole.peer_field,
        MAX_PARTITION_SECONDS,
        make_extension=lambda host: GatewayExtension(host, cast(GatewayCore, host.core), masquerade, ready),
    )
    # Ready from the portal's first word on: tunnels outlive its absence.
    health = await serve(settings.health_address, dict, ready=ready.is_set)
    try:
        await run_tunnel(settings.tunnel, role)
    finally:
        await health.close()


def _forward(text: str) -> Forward | None:
    if text not in set(Forward):
        raise ValueError(f"expected {' or '.join(Forward)}, got {text!r}")
    return Forward(text)
