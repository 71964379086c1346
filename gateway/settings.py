"""A gateway's settings: those of the tunnel, and what only it has."""

import os
from dataclasses import dataclass
from typing import Final

from connectivity.endpoint import Endpoint
from connectivity.io.tunnel_settings import TunnelSettings, read_tunnel_settings
from connectivity.settings import SettingsReader
from gateway.forward import Forward

DEFAULT_API_URL: Final = "wss://api.firezone.dev"
MAX_WORKERS: Final = 64  # of POSTERN_WORKERS; as ``io.workers.steering`` has it, which settings need not import


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What only the gateway has."""

    tunnel: TunnelSettings
    health_address: Endpoint
    forward: Forward | None
    workers: int
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
    workers = reader.optional(
        "POSTERN_WORKERS", "--workers", _workers, 1, "processes that carry packets: a number, or auto for one a core"
    )
    reader.switch(None, "--no-check", "accepted; privileges show when they are needed")
    reader.switch("FIREZONE_VALIDATE_CHECKSUMS", "--validate-checksums", "accepted; checksums are always validated")
    tunnel = read_tunnel_settings(
        reader, "gateway", token=token, default_api_url=DEFAULT_API_URL, raise_limits_by_default=True
    )
    reader.finish()
    return GatewaySettings(tunnel, health, forward, workers, tuple(reader.warnings))


def _workers(text: str) -> int:
    """One is this process itself."""
    if text == "auto":
        return min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_WORKERS:
        raise ValueError(f"expected auto or 1 to {MAX_WORKERS}, got {text!r}")
    return int(text)


def _forward(text: str) -> Forward | None:
    if text not in set(Forward):
        raise ValueError(f"expected {' or '.join(Forward)}, got {text!r}")
    return Forward(text)
