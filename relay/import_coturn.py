"""``postern relay import-coturn turnserver.conf``: writes relay.yaml and says what became of each option."""

import os
import re
import textwrap
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import yaml

from connectivity import yaml_document
from connectivity.endpoint import IPAddress
from connectivity.errors import FatalError
from connectivity.printable import printable
from connectivity.settings import SettingsError, SettingsReader, text_value
from relay import config_file
from relay.coturn.importing import Imported, Note, convert
from relay.coturn.options import Kind
from relay.coturn.reading import read_options

GUIDE: Final = "docs/migrating-from-coturn.md"
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_WIDTH: Final = 80
_HEAD: Final = f"# Made of {{source}} by postern relay import-coturn; {GUIDE} has the differences.\n"


def run(arguments: Sequence[str]) -> int:
    """Import one file. 0: the new file can serve; 1: it is written, and something is missing before it can.

    Raises:
        FatalError: a file of that name is there, or cannot be written.
        SettingsError: the words mean nothing, or there is nothing to read.
    """
    reader = SettingsReader("relay import-coturn", arguments)
    target = reader.optional(None, "-o", Path, Path("relay.yaml"), "the new file; it must not exist")
    realm = reader.optional(None, "--realm", text_value, None, "the realm, if the file names none")
    none: tuple[IPAddress, ...] = ()
    text = "addresses by comma that clients reach, for a family of which the file names none"
    public = reader.optional(None, "--public-addresses", _addresses, none, text)
    words = reader.positional()
    if len(words) != 1:
        reader.problem("expected the path of one turnserver.conf")
    reader.finish()
    source = Path(words[0])
    here = source.parent.resolve()
    options = read_options(yaml_document.read_text(source))
    # Paths are relative to the file that they stand in.
    imported = convert(options, path=str if here == target.parent.resolve() else lambda text: str(here / text))
    _add(imported, realm, public)
    _write(target, _HEAD.format(source=printable(source.name)) + _yaml(imported.document))
    # What a wish names is not named again by a problem, which does not know how to mend it.
    said = {re.split("[: ]", wish, maxsplit=1)[0] for wish in imported.wishes}
    missing = [*imported.wishes, *(text for text in _problems(target) if text.partition(" ")[0] not in said)]
    print("\n".join(_report(target, imported, missing)))
    return 1 if missing else 0


def _add(imported: Imported, realm: str | None, public: Sequence[IPAddress]) -> None:
    """What the words on the command line say, where the file says nothing."""
    document = imported.document
    if realm is not None:
        imported.document = document = {"realm": realm} | document
    for ip in public:
        document.setdefault("public", {}).setdefault(f"ipv{ip.version}", str(ip))
    imported.wishes = [wish for wish in imported.wishes if wish.partition(":")[0] not in document]


def _write(target: Path, text: str) -> None:
    """Nobody else may read it, and nothing that is there is lost."""
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise FatalError(f"{target} exists: expected the name of a new file (-o)") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        opened.write(text)


def _problems(target: Path) -> list[str]:
    try:
        config_file.load(target)
    except SettingsError as error:
        return [text.removeprefix(f"{target}: ") for text in error.problems]
    return []


def _report(target: Path, imported: Imported, missing: Sequence[str]) -> list[str]:
    lines = [f"{target}: {', '.join(imported.document)}"]
    for kind in Kind:
        notes = [note for note in imported.notes if note.kind is kind]
        lines += ["", f"{kind.value}:", *map(_line, notes)] if notes else []
    if missing:
        return [*lines, "", "Missing before it can serve:", *(f"  {text}" for text in missing)]
    return [*lines, "", "Private peers stay closed unless peers.allow opens them. What else differs:", f"{GUIDE}.",
            f"postern relay --config {target} serves it."]  # fmt: skip


def _line(note: Note) -> str:
    # What does not look like an option may be anything, a password without its name too.
    name = note.option.name if _NAME.fullmatch(note.option.name) else "(hidden)"
    text = f"line {note.option.line}, {name}: {note.text}"
    return textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)


def _yaml(document: dict[str, Any]) -> str:
    return str(yaml.safe_dump(document, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120))


def _addresses(text: str) -> tuple[IPAddress, ...]:
    try:
        return tuple(ip_address(part.strip()) for part in text.split(","))
    except ValueError:
        raise ValueError("expected IP addresses separated by commas") from None
