"""``postern client``: settings, then the service."""

import asyncio
import os
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from client.core import ClientCore
from client.extension import make_extension
from client.role import ClientRole
from client.system_dns import control
from client.token import DEFAULT_PATH, take_token
from connectivity.clock import Instant
from connectivity.errors import FatalError, chain
from connectivity.io import descriptors, status_view
from connectivity.io.identity import load_or_create
from connectivity.io.portal import read_system_info
from connectivity.io.service import Role, run_tunnel
from connectivity.io.tunnel_settings import TunnelSettings, configure_logs, read_tunnel_settings
from connectivity.phoenix.login import PortalLogin, client_login, user_agent
from connectivity.settings import SettingsError, SettingsReader, one_of
from connectivity.wireguard import KeyPair

DEFAULT_API_URL: Final = "wss://api.firezone.dev/"
DEFAULT_ID_PATH: Final = Path("/var/lib/dev.firezone.client/config/firezone-id.json")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What only the client has; ``check`` ends before the portal is contacted."""

    tunnel: TunnelSettings
    max_partition_seconds: float | None
    check: bool
    dns_control: str


def read_settings(arguments: list[str]) -> ClientSettings:
    """Read and check everything; takes the token out of the environment."""
    reader = SettingsReader("client", arguments)
    path = reader.optional("FIREZONE_TOKEN_PATH", "--token-path", Path, Path(DEFAULT_PATH), "file with the token")
    dns_control = reader.optional(
        control.SETTING,
        "--dns-control",
        one_of(*control.MODES),
        control.DEFAULT,
        f"how this host comes to ask the client for names: one of {', '.join(control.MODES)}",
    )
    partition = reader.optional(
        "MAX_PARTITION_TIME", "--max-partition-time", _duration, None, "give up after this time without the portal"
    )
    check = reader.switch(None, "--check", "only look at the settings")
    tunnel = read_tunnel_settings(
        reader, "client", token="", default_api_url=DEFAULT_API_URL, raise_limits_by_default=False
    )
    token = _finish(reader, path)
    return ClientSettings(replace(tunnel, token=token), partition, check, dns_control)


def run(arguments: list[str]) -> int:
    """Run the client until a signal, or ask one that runs."""
    if arguments[:1] and arguments[0] in status_view.COMMANDS:
        return status_view.run("client", arguments)
    settings = read_settings(arguments)
    configure_logs(settings.tunnel, "client")
    if settings.check:
        return 0
    descriptors.raise_limit()

    def make_core(keys: KeyPair, _now: Instant) -> ClientCore:
        return ClientCore(keys=keys, rng=os.urandom)

    def make_login(tunnel: TunnelSettings, keys: KeyPair) -> PortalLogin:
        return client_login(
            tunnel.api_url,
            token=tunnel.token,
            device_id=tunnel.device_id or load_or_create(DEFAULT_ID_PATH),
            name=tunnel.name,
            public_key=keys.public,
            user_agent=user_agent("headless-client", read_system_info()),
        )

    role = Role(
        "client",
        make_core,
        make_login,
        ClientRole.peer_field,
        settings.max_partition_seconds,
        make_extension=partial(make_extension, settings.dns_control),
        roams=True,
    )
    asyncio.run(run_tunnel(settings.tunnel, role))
    return 0


def _finish(reader: SettingsReader, path: Path) -> str:
    """The token. Without one this is told together with whatever else is wrong.

    Raises:
        SettingsError: something is wrong with the other settings, and maybe with the token.
        FatalError: only the token is missing.
    """
    token, missing = "", None
    try:
        token = take_token(os.environ, path)
    except FatalError as error:
        missing = error
    try:
        reader.finish()
    except SettingsError as error:
        raise SettingsError([*error.problems, *([] if missing is None else [chain(missing)])]) from None
    if missing is not None:
        raise missing
    return token


def _duration(text: str) -> float:
    parts = re.fullmatch(r"(\d+)([smhd])", text)
    if parts is None:
        raise ValueError("expected a time such as 30s, 5m, 1h or 30d")
    return float(int(parts[1]) * _UNITS[parts[2]])
