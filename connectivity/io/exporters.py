"""What all that export by OpenTelemetry have in common; OpenTelemetry itself is imported only by those that do."""

import logging
from collections.abc import Callable
from threading import Thread

from connectivity.errors import chain

log = logging.getLogger("connectivity.io")


def read_collector(text: str) -> str:
    """The address of a collector."""
    host, _, port = text.rpartition(":")
    if not host or "/" in host or not (port.isascii() and port.isdecimal()):
        raise ValueError("expected host:port")
    return text


def installed_version() -> str:
    """Ours, as the package tells it."""
    from importlib import metadata  # dear to import

    try:
        return metadata.version("postern")
    except metadata.PackageNotFoundError:
        return "unknown"  # run from a checkout that was not installed


def shut_down(export: Callable[[], object], seconds: float) -> None:
    """Export for the last time. A thread of its own, for some exporters retry longer than they are told to."""

    def run() -> None:
        try:
            export()
        except Exception as error:  # noqa: BLE001  # outermost frame of a thread; the service has ended already
            log.debug("The last metrics were not exported", extra={"fields": {"error": chain(error)}})

    thread = Thread(target=run, name="metrics-shutdown", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        log.info("The last metrics were not exported in time")
