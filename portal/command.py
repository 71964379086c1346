"""``postern portal``: reads the YAML file, serves it, reads it again on SIGHUP, ends on SIGINT and SIGTERM."""

import asyncio
import logging
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from connectivity import yaml_document
from connectivity.io import descriptors, logs, service_manager, settings_check, status_socket, status_view
from connectivity.settings import SettingsError, SettingsReader
from portal import changes, config_file, observing, state, status
from portal.configuration import Configuration
from portal.server import PortalServer

SHORT_TOKEN: Final = 16

_logger = logging.getLogger("portal")


@dataclass(slots=True)
class _Source:
    """Where a configuration comes from. The kept secret is read once: it may not change while devices rest on it."""

    path: Path
    state: Path | None
    kept: str | None = field(default=None, repr=False)

    def load(self) -> Configuration:
        """The file's configuration, with the secret that is kept where the file has none.

        Raises:
            SettingsError: what is wrong with either.
        """
        configuration = config_file.load(self.path)
        if not configuration.secret and self.state is not None:
            if self.kept is None:
                self.kept = state.load_or_create(self.state)
            configuration = replace(configuration, secret=self.kept)
        _advise(self.path, configuration)
        return configuration


def run(arguments: list[str]) -> int:
    """Run until a signal, or ask one that runs. Exit code 0.

    Raises:
        SettingsError: wrong flags, variables or file.
        FatalError: the listen address is not available.
    """
    if arguments[:1] and arguments[0] in status_socket.COMMANDS:
        return status_view.run("portal", arguments, status.render)
    reader = SettingsReader("portal", arguments)
    checked = reader.optional(None, "--check", Path, None, "path of a YAML file to look at; nothing is served")
    if checked is None:
        path = reader.required("POSTERN_PORTAL_CONFIG", "--config", Path, "the path of the YAML file")
    else:
        path = reader.optional("POSTERN_PORTAL_CONFIG", "--config", Path, checked)
    kept = reader.optional("POSTERN_PORTAL_STATE", "--state", Path, None, "file for a secret made at the first start")
    directives = reader.optional("RUST_LOG", "--log", _filter, "info", "what to log, such as info,portal=debug")
    form = reader.optional("LOG_FORMAT", "--log-format", logs.read_form, logs.HUMAN, "human, json or google-cloud")
    shown = observing.read_settings(reader)
    reader.finish()
    logs.configure(directives, form)
    if checked is not None:
        return settings_check.check(checked, config_file.load, _advise)
    source = _Source(path, kept)
    configuration = source.load()
    descriptors.raise_limit()
    asyncio.run(_serve(source, configuration, shown))
    return 0


async def _serve(source: _Source, configuration: Configuration, shown: observing.ObservingSettings) -> None:
    if not configuration.secret:
        _logger.warning(
            "Tunnel addresses and keys change with the next start: "
            "give the file a secret, or POSTERN_PORTAL_STATE a path where one can be kept"
        )
    reloading = _Reloading(source, PortalServer(configuration), configuration)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reloading.reload)
    await reloading.server.run(
        stop, lambda _: service_manager.tell(service_manager.READY), observing.observing(shown, reloading.server)
    )
    _logger.info("Portal stopped")


@dataclass(slots=True)
class _Reloading:
    """What is in force of the file, and how to replace it."""

    source: _Source
    server: PortalServer
    configuration: Configuration

    def reload(self) -> None:
        """Read the file and apply it; a broken one changes nothing."""
        try:
            wanted = self.source.load()
        except SettingsError as error:
            _logger.error("Kept the old configuration", extra={"fields": {"error": str(error)}})
            return
        differences = changes.describe(self.configuration, wanted, int(time.time()))
        self.server.apply(wanted)
        self.configuration = wanted
        _logger.info("Configuration read again", extra={"fields": {"changed": ", ".join(differences) or "nothing"}})


def _advise(path: Path, configuration: Configuration) -> None:
    short = [token.name for token in configuration.tokens if min(map(len, token.texts)) < SHORT_TOKEN]
    if short:
        _logger.warning("Tokens shorter than 16 characters can be guessed", extra={"fields": {"names": short}})
    if configuration.is_confidential and yaml_document.others_may_read(path):
        fields = {"file": path, "remedy": yaml_document.remedy(path)}
        _logger.warning("Others may read tokens or the secret", extra={"fields": fields})


def _filter(text: str) -> str:
    logs.parse_filter(text)
    return text
