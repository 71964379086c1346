"""``postern status``: the services of Postern that run on this machine, in one view.

Each answers at a Unix socket of its own; whoever lies in the folder of sockets, or is named by a service's own setting,
is asked. A socket that a killed run left behind is no service.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from connectivity.errors import FatalError, chain
from connectivity.io.local_client import LocalService, NobodyAnswers
from connectivity.io.status_view import as_json_text, watch
from connectivity.io.table import Screen
from connectivity.printable import printable
from connectivity.settings import SOCKET_FOLDER, SettingsReader

# service -> (module holding ``render(document, screen=...)``, in the order in which they are shown)
RENDERERS: Final = {
    "client": "connectivity.io.status_table",
    "gateway": "connectivity.io.status_table",
    "relay": "relay.status_table",
    "portal": "portal.status",
}
_NAMED_BY: Final = ("POSTERN_STATUS_SOCKET", "POSTERN_ADMIN_SOCKET")


@dataclass(frozen=True, slots=True)
class Found:
    """What the sockets of this machine said: documents of services, and what kept others from being read."""

    services: list[dict[str, Any]]
    problems: list[str]


def run(arguments: list[str]) -> int:
    """Show them. Exit code 0 if all that run could be asked.

    Raises:
        FatalError: no service runs here.
    """
    reader = SettingsReader("status", arguments)
    folder = reader.optional(None, "--folder", Path, SOCKET_FOLDER, "where the services have their sockets")
    in_json = reader.switch(None, "--json", "as one JSON object: services, problems")
    watched = reader.switch(None, "--watch", "again each second, until Ctrl-C")
    named = [reader.optional(name, None, Path, None, "a socket elsewhere") for name in _NAMED_BY]
    reader.finish()
    sockets = [path for path in named if path is not None and path.is_absolute()]
    if watched:
        watch(lambda: _ask_all(folder, sockets), as_json=in_json, render=render)
        return 0
    found = _ask_all(folder, sockets)
    print(as_json_text(found, indent=2) if in_json else render(found))
    return 1 if found["problems"] else 0


def render(found: Mapping[str, Any]) -> str:
    """Each service's own view, one below the other."""
    screen = Screen.of(sys.stdout)
    parts = []
    for document in found["services"]:
        show: Callable[..., str] = importlib.import_module(RENDERERS[document["service"]]).render
        parts.append(show(document, screen=screen))
    parts += [printable(problem) for problem in found["problems"]]
    return f"\n\n{screen.bold('─' * screen.width)}\n\n".join(parts)


def _ask_all(folder: Path, named: list[Path]) -> dict[str, Any]:
    """The document.

    Raises:
        FatalError: nobody answers, and nobody refuses either.
    """
    services: list[dict[str, Any]] = []
    problems: list[str] = []
    for path in _sockets(folder, named, problems):
        try:
            answer = LocalService("service", "socket", path).ask("GET", "/status")
        except NobodyAnswers:
            continue
        except FatalError as error:
            problems.append(chain(error))
            continue
        if isinstance(answer, dict) and answer.get("service") in RENDERERS:
            services.append(answer)
        else:
            problems.append(f"what answers at {path} is no service of this version")
    if not services and not problems:
        hint = "where one should, journalctl --unit 'postern-*' says why not"
        raise FatalError(f"no service of Postern runs on this machine: nobody answers in {folder}; {hint}")
    order = list(RENDERERS)
    services.sort(key=lambda document: order.index(document["service"]))
    return {"services": services, "problems": problems}


def _sockets(folder: Path, named: list[Path], problems: list[str]) -> list[Path]:
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix == ".sock" and path.is_socket())
    except FileNotFoundError:
        found = []
    except OSError as error:
        problems.append(f"cannot look into {folder} as user {os.geteuid()}: {error.strerror}")
        found = []
    return list(dict.fromkeys((*found, *named)))
