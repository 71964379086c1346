"""``postern relay --check FILE``: all that is wrong with a relay.yaml, each with its line, and what is unwise."""

import logging
from pathlib import Path

from connectivity.io import logs, settings_check
from connectivity.settings import SettingsReader
from relay import config_file
from relay.advice import advise
from relay.configuration import Configuration
from relay.driver.host_addresses import host_addresses
from relay.settings import CHECK_FLAG, read_listed

_log = logging.getLogger("relay")


def run(arguments: list[str]) -> int:
    """Look at the file; nothing is served. Exit code 2 if anything is wrong with it."""
    reader = SettingsReader("relay", arguments)
    listed = read_listed(reader)
    path = reader.required(None, CHECK_FLAG, Path, "the path of a relay.yaml")
    reader.finish()
    logs.configure("info", logs.HUMAN)
    return settings_check.check(path, lambda file: config_file.load(file, listed), _advise)


def _advise(path: Path, configuration: Configuration) -> None:
    config_file.advise(path, configuration)
    for advice in advise(configuration, host_addresses(), is_standalone=True):
        _log.warning(advice.message, extra={"fields": advice.fields})
