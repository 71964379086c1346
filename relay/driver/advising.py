"""Says what is unwise: at start, when the file was read again, and once a day of the certificate."""

import asyncio
import logging
import time
from typing import Final

from connectivity.errors import chain
from relay.advice import Advice, advise, advise_of_certificate
from relay.configuration import Configuration, Validity
from relay.driver.offload import OFF
from relay.driver.service import RelayService
from relay.settings import RelaySettings

_DAY_SECONDS: Final = 24 * 60 * 60.0
_MOST_FILTERS_NAMED: Final = 8

_log = logging.getLogger("relay")


class Advising:
    """Knows what is served, and what was said of it."""

    def __init__(self, service: RelayService, settings: RelaySettings) -> None:
        self._service = service
        self._settings = settings
        self._validity: Validity | None = None
        self._has_told_of_names = False

    def say(self, configuration: Configuration) -> None:
        """This configuration is in force now."""
        if self._settings.file is not None:
            from relay import config_file  # with a parser of YAML

            config_file.advise(self._settings.file, configuration)
        is_standalone = self._settings.portal is None
        for advice in advise(configuration, self._service.on_host, is_standalone=is_standalone):
            _warn(advice)
        self._validity = _validity(configuration)
        self._say_of_certificate()

    async def say_of_filters(self) -> None:
        """What the kernel forwards for us no firewall of this host sees."""
        if self._service.offload.status().mode == OFF:
            return
        found = await asyncio.to_thread(_filters)
        if found:
            named = "; ".join(found[:_MOST_FILTERS_NAMED])
            fields = {"filters": len(found), "named": named, "remedy": "peers.deny, or filter before this host"}
            _log.warning("This host's firewall does not see what XDP forwards", extra={"fields": fields})

    def maintain(self) -> None:
        """What clients do; every few seconds."""
        if self._service.server.names_in_milliseconds and not self._has_told_of_names:
            self._has_told_of_names = True
            fields = {"remedy": "whoever makes them must divide by 1000: the time of a REST name is in seconds"}
            _log.warning("REST names in milliseconds never end", extra={"fields": fields})

    async def run(self) -> None:
        """What changes by itself."""
        while True:
            await asyncio.sleep(_DAY_SECONDS)
            self._say_of_certificate()

    def _say_of_certificate(self) -> None:
        if self._validity is not None and (advice := advise_of_certificate(self._validity, time.time_ns())):
            _warn(advice)


def _filters() -> list[str]:
    from connectivity.io.firewall import filters  # pyroute2

    return filters()


def _validity(configuration: Configuration) -> Validity | None:
    if configuration.certificate is None:
        return None
    try:
        return configuration.certificate.validity()
    except (OSError, ValueError) as error:  # OpenSSL has taken it a moment ago
        _log.debug("Cannot look at the certificate", extra={"fields": {"error": chain(error)}})
        return None


def _warn(advice: Advice) -> None:
    _log.warning(advice.message, extra={"fields": advice.fields})
