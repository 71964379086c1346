"""SIGHUP: a stand-alone relay reads its file again, and a broken file changes nothing."""

import logging
import ssl
import time
from pathlib import Path

from connectivity.errors import FatalError, chain
from connectivity.settings import SettingsError
from relay import config_file
from relay.configuration import Configuration
from relay.driver.addresses import without_absent_families
from relay.driver.advising import Advising
from relay.driver.core_settings import credentials, server_settings
from relay.driver.service import RelayService
from relay.settings import RelaySettings

_log = logging.getLogger("relay")


class Reloading:
    """What is in force of the file, and how to replace it."""

    def __init__(self, service: RelayService, settings: RelaySettings, path: Path, advising: Advising) -> None:
        self._service = service
        self._advising = advising
        self._path = path
        self._listed = settings.listed
        self._proxies = settings.proxies
        self._configuration = settings.configuration
        self._certificate = _content(settings.configuration)

    def reload(self) -> None:
        """Read the file and apply what can change."""
        try:
            wanted = without_absent_families(config_file.load(self._path, self._listed, self._proxies))
            configuration, kept = self._configuration.changed_to(wanted)
            context = None if configuration.certificate is None else configuration.certificate.context()
        except (SettingsError, FatalError, OSError) as error:
            _log.error("Kept the old configuration", extra={"fields": {"error": chain(error)}})
            return
        if kept:
            _log.warning("Some settings change only with a restart", extra={"fields": {"kept": ",".join(kept)}})
        differences = self._configuration.differences(configuration)
        certificate, self._certificate = self._certificate, _content(configuration)
        if certificate != self._certificate and "certificate changed" not in differences:
            differences.append("certificate renewed")
        self._apply(configuration, context)
        self._advising.say(configuration)
        _log.info("Configuration read again", extra={"fields": {"changed": ", ".join(differences) or "nothing"}})

    def _apply(self, configuration: Configuration, context: ssl.SSLContext | None) -> None:
        service, now = self._service, time.monotonic_ns()
        service.streams.trusted_proxies = configuration.trusted_proxies
        if context is not None:
            service.streams.use_certificate(context)
        settings = server_settings(configuration, service.on_host, is_standalone=True)
        ended = service.server.reconfigure(settings, credentials(configuration), now)
        service.settle(now)
        if ended:
            _log.info("Ended allocations whose credentials count no more", extra={"fields": {"allocations": ended}})
        self._configuration = configuration


def _content(configuration: Configuration) -> bytes:
    """The certificate's file, or nothing; a file that cannot be read has been told of by whoever needs it."""
    try:
        return b"" if configuration.certificate is None else configuration.certificate.content()
    except OSError:
        return b""
