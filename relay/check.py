"""``postern relay --check FILE``: all that is wrong with a relay.yaml, each with its line, and what is unwise."""

import logging
from pathlib import Path
from typing import Final

from connectivity import yaml_document, yaml_lines
from connectivity.io import logs
from connectivity.settings import SettingsError, SettingsReader
from relay import config_file
from relay.advice import advise
from relay.configuration import Configuration
from relay.driver.host_addresses import host_addresses
from relay.settings import CHECK_FLAG, read_listed

MISTAKEN: Final = 2

_log = logging.getLogger("relay")


def run(arguments: list[str]) -> int:
    """Look at the file; nothing is served. Exit code 2 if anything is wrong with it."""
    reader = SettingsReader("relay", arguments)
    listed = read_listed(reader)
    path = reader.required(None, CHECK_FLAG, Path, "the path of a relay.yaml")
    reader.finish()
    logs.configure("info", logs.HUMAN)
    content = yaml_document.read_text(path)
    try:
        configuration = config_file.load(path, listed)
    except SettingsError as error:
        print(*yaml_lines.locate(content, str(path), error.problems), sep="\n")
        return MISTAKEN
    _advise(path, configuration)
    print(f"{path}: no mistake found")
    return 0


def _advise(path: Path, configuration: Configuration) -> None:
    config_file.advise(path, configuration)
    for advice in advise(configuration, host_addresses(), is_standalone=True):
        _log.warning(advice.message, extra={"fields": advice.fields})
