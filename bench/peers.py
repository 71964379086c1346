"""Where upstream's own programs lie, for comparisons on one machine."""

import lzma
from pathlib import Path
from typing import Final

from connectivity.errors import FatalError
from connectivity.settings import SettingsReader

PROGRAMS: Final = ("firezone-gateway", "firezone-headless-client", "firezone-relay")


def read_directory(reader: SettingsReader) -> Path | None:
    """Declare and read where upstream's programs are; ``none`` says knowingly that there are none, as in the tests."""
    return reader.optional("POSTERN_TEST_PEERS", "--peers", _directory, None, "directory with upstream's programs")


def unpack(source: Path, target: Path) -> dict[str, Path]:
    """Each of upstream's programs by name, executable; FatalError if one is missing."""
    return {name: executable(source, name, target) for name in PROGRAMS}


def present(source: Path, target: Path) -> dict[str, Path]:
    """Likewise those that are there."""
    there = [name for name in PROGRAMS if (source / name).exists() or (source / f"{name}.xz").exists()]
    return {name: executable(source, name, target) for name in there}


def executable(source: Path, name: str, target: Path) -> Path:
    """A program as it is there, or unpacked from ``NAME.xz`` into ``target``.

    Raises:
        FatalError: it is neither.
    """
    plain, packed, program = source / name, source / f"{name}.xz", target / name
    if plain.is_file():
        return plain
    if not packed.is_file():
        raise FatalError(f"{source} has neither {name} nor {name}.xz")
    program.write_bytes(lzma.decompress(packed.read_bytes()))
    program.chmod(0o755)
    return program


def _directory(text: str) -> Path | None:
    return None if text == "none" else Path(text)
