"""``postern portal``: reads the YAML file, serves it, reads it again on SIGHUP, ends on SIGINT and SIGTERM."""

import asyncio
import logging
import signal
from pathlib import Path
from typing import Final

from connectivity.io import descriptors, logs
from connectivity.settings import SettingsError, SettingsReader
from portal import config_file
from portal.configuration import Configuration
from portal.server import PortalServer

SHORT_TOKEN: Final = 16

_logger = logging.getLogger("portal")


def run(arguments: list[str]) -> int:
    """Run until a signal. Exit code 0.

    Raises:
        SettingsError: wrong flags, variables or file.
        FatalError: the listen address is not available.
    """
    reader = SettingsReader("portal", arguments)
    path = reader.required("POSTERN_PORTAL_CONFIG", "--config", Path, "the path of the YAML file")
    directives = reader.optional("RUST_LOG", "--log", _filter, "info", "what to log, such as info,portal=debug")
    form = reader.optional("LOG_FORMAT", "--log-format", logs.read_form, logs.HUMAN, "human, json or google-cloud")
    reader.finish()
    logs.configure(directives, form)
    configuration = config_file.load(path)
    _advise(configuration)
    descriptors.raise_limit()
    asyncio.run(_serve(path, configuration))
    return 0


async def _serve(path: Path, configuration: Configuration) -> None:
    server = PortalServer(configuration)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, path, server)
    await server.run(stop)
    _logger.info("Portal stopped")


def _reload(path: Path, server: PortalServer) -> None:
    try:
        configuration = config_file.load(path)
    except SettingsError as error:
        _logger.error("Kept the old configuration", extra={"fields": {"error": str(error)}})
        return
    _advise(configuration)
    server.apply(configuration)
    _logger.info("Configuration read again")


def _advise(configuration: Configuration) -> None:
    short = [token.name for token in configuration.tokens if len(token.text) < SHORT_TOKEN]
    if short:
        _logger.warning("Tokens shorter than 16 characters can be guessed", extra={"fields": {"names": short}})


def _filter(text: str) -> str:
    logs.parse_filter(text)
    return text
