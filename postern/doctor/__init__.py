"""``postern doctor``: what this host lacks for each service, in words, and nothing on it is changed in the end."""

import json
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from connectivity.io.table import Screen, paragraph
from connectivity.printable import printable
from connectivity.settings import SettingsReader
from postern.doctor import bundle, checks, start_up

# A remedy that is a command stays in one line, however long: it is there to be copied.
_COMMAND: Final = re.compile(
    r"(apt-get|ch(grp|mod|own)|firewall-cmd|ip|ip6?tables(-legacy)?|modprobe|nft|rm|sysctl|systemctl|ufw) [-\w/]"
)
_SERVICES: Final = ("client", "gateway", "portal", "relay")


def run(arguments: list[str]) -> int:
    """Say what is so, of one service or of those here. 0 where nothing is missing, 1 otherwise."""
    reader = SettingsReader("doctor", arguments)
    as_json = reader.switch(None, "--json", "one object for programs")
    file = reader.optional(None, "--bundle", Path, None, "write a report for a bug there, with secrets taken out")
    words = reader.positional()
    for word in words[1:]:
        reader.problem(f"{word!r} is not expected here")
    if words and words[0] not in _SERVICES:
        reader.problem(f"{words[0]!r} is not a service to examine: expected one of {', '.join(_SERVICES)}")
    reader.finish()
    report = examine(words[0] if words else None)
    if file is not None:
        bundle.write(file, report)
    if as_json:
        print(json.dumps(report, indent=2))
    elif file is not None:
        print(f"{file}: secrets are taken out; addresses and names are not, so look at it before you send it")
    else:
        _print(report, named=bool(words))
    return 0 if report["healthy"] else 1


def examine(service: str | None) -> dict[str, Any]:
    """What the checks of one service find, or of those that are set up here, or of all where none is."""
    services = [service] if service else [name for name in _SERVICES if start_up.settings_of(name)] or [*_SERVICES]
    concerns = []
    for check in checks.CHECKS:
        if check.services.isdisjoint(services):
            continue
        findings = check.examine()
        concerns.append(
            {
                "concern": check.concern,
                "services": sorted(check.services),
                "tries": check.tries,
                "ok": not any(finding.hinders for finding in findings),
                "findings": [
                    {"what": finding.what, "remedy": finding.remedy, "hinders": finding.hinders} for finding in findings
                ],
            }
        )
    return {
        "version": version("postern"),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "services": services,
        "healthy": all(concern["ok"] for concern in concerns),
        "concerns": concerns,
    }


def _print(report: dict[str, Any], *, named: bool) -> None:
    screen = Screen.of(sys.stdout)
    if not named and len(report["services"]) < len(_SERVICES):
        services = ", ".join(report["services"])
        print(paragraph(f"Examined by the settings that are here: {services}. Another has to be named.", screen))
    for concern in report["concerns"]:
        print(f"{concern['concern']}: {'ok ' if concern['ok'] else ''}({concern['tries']})")
        for finding in concern["findings"]:
            print(paragraph(finding["what"], screen, "  - ", "    "))
            if _COMMAND.match(finding["remedy"]):
                print(f"    → {printable(finding['remedy'])}")
            elif finding["remedy"]:
                print(paragraph(finding["remedy"], screen, "    → ", "      "))
