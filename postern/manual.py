"""``postern man FOLDER``: a manual page of each first word, and one of all, made of what ``--help`` is made of."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from connectivity.settings import SettingsReader
from postern.help_text import declared_by, sections, title, usage
from postern.synopses import SYNOPSES

_SECTION: Final = 1


def run(arguments: Sequence[str]) -> int:
    """Write the pages.

    Raises:
        SettingsError: no folder is named.
        OSError: it cannot be written to.
    """
    reader = SettingsReader("man", arguments)
    words = reader.positional()
    if len(words) != 1:
        reader.problem("expected a folder")
    reader.finish()
    folder = Path(words[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


def pages() -> dict[str, str]:
    """All pages by the names of their files."""
    from postern.cli import COMMANDS  # which imports us

    modules = {name: module for name, (module, _) in COMMANDS.items()}
    found = {f"postern.{_SECTION}": _overview({name: text for name, (_, text) in COMMANDS.items()})}
    for first in COMMANDS:
        own = [command for command in SYNOPSES if command.split()[0] == first]
        lines = _head(f"postern-{first}", SYNOPSES[first].about)
        lines += [".SH SYNOPSIS", *(_line(way) for command in own for way in usage(command))]
        for command in own:
            lines += [".SH " + _escaped(f"postern {command}".upper()), _escaped(SYNOPSES[command].about)]
            lines += [line for note in SYNOPSES[command].notes for line in (".PP", _escaped(note))]
            for heading, entries in sections(command, declared_by(command, modules)).items():
                lines.append(f".SS {_escaped(heading)}")
                for entry in entries:
                    lines += [".TP", f".B {_escaped(title(entry))}", _escaped(entry.help or "a value")]
        found[f"postern-{first}.{_SECTION}"] = "\n".join([*lines, ".SH SEE ALSO", r"\fBpostern\fR(1)", ""])
    return found


def _overview(commands: dict[str, str]) -> str:
    lines = _head("postern", "a TURN relay and a zero-trust gateway")
    lines += [".SH SYNOPSIS", _line("postern COMMAND [flags]"), ".SH COMMANDS"]
    for name, text in commands.items():
        lines += [".TP", rf"\fBpostern\-{_escaped(name)}\fR(1)", _escaped(text)]
    lines += [".SH EXIT STATUS", "0: done. 1: it failed, and one line says why. 2: it was called wrongly.", ""]
    return "\n".join(lines)


def _head(name: str, about: str) -> list[str]:
    title_line = f'.TH {_escaped(name.upper())} {_SECTION} "" "postern {version("postern")}"'
    return [title_line, ".SH NAME", rf"{_escaped(name)} \- {_escaped(about)}"]


def _line(text: str) -> str:
    return f".br\n.B {_escaped(text)}"


def _escaped(text: str) -> str:
    r"""As roff takes it: a hyphen that can be copied, and no line that begins a request."""
    found = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{found}" if found[:1] in {".", "'"} else found
