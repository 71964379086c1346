"""``postern client``: settings, then the service."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from client.session import Device
from client.system_dns import control
from client.token import DEFAULT_PATH, rereading, take_token
from connectivity.errors import FatalError, chain
from connectivity.io import descriptors, status_socket
from connectivity.io.service import run_tunnel
from connectivity.io.tunnel_settings import TunnelSettings, configure_logs, read_tunnel_settings
from connectivity.settings import SettingsError, SettingsReader, human_time, one_of

DEFAULT_API_URL: Final = "wss://api.firezone.dev/"


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What only the client has; ``check`` ends before the portal is contacted, ``exit_when_ready`` with the tunnel.

    ``read_token`` reads the token's file again, where there is one.
    """

    tunnel: TunnelSettings
    max_partition_seconds: float | None
    check: bool
    dns_control: str
    exit_when_ready: bool
    read_token: Callable[[], str] | None = None


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
        "MAX_PARTITION_TIME", "--max-partition-time", human_time, None, "give up after this time without the portal"
    )
    check = reader.switch(None, "--check", "only look at the settings")
    exit_when_ready = reader.switch(None, "--exit", "end once the tunnel is configured, to see whether it works")
    tunnel = read_tunnel_settings(
        reader, "client", token="", default_api_url=DEFAULT_API_URL, raise_limits_by_default=False
    )
    for word in reader.positional():
        if word != "standalone":  # Firezone's headless client takes it, and does the same with it
            reader.problem(f"{word!r} is not expected here")
    read_token = rereading(os.environ.get("FIREZONE_TOKEN", "").strip(), path)
    token = _finish(reader, path)
    return ClientSettings(replace(tunnel, token=token), partition, check, dns_control, exit_when_ready, read_token)


def run(arguments: list[str]) -> int:
    """Run the client until a signal, or ask one that runs."""
    if arguments[:1] and arguments[0] in status_socket.COMMANDS:
        from connectivity.io import status_view  # what one that starts need not wait for

        return status_view.run("client", arguments)
    settings = read_settings(arguments)
    configure_logs(settings.tunnel, "client")
    if settings.check:
        return 0
    descriptors.raise_limit()
    device = Device(settings.tunnel, settings.dns_control, settings.max_partition_seconds, settings.read_token)
    role = device.role(stays=not settings.exit_when_ready)
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
