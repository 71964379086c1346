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
    """Each program by name, executable: taken as it is, or unpacked from ``NAME.xz`` into ``target``.

    Raises:
        FatalError: one is missing.
    """
    found: dict[str, Path] = {}
    for name in PROGRAMS:
        plain, packed = source / name, source / f"{name}.xz"
        if plain.is_file():
            found[name] = plain
        elif packed.is_file():
            found[name] = target / name
            found[name].write_bytes(lzma.decompress(packed.read_bytes()))
            found[name].chmod(0o755)
        else:
            raise FatalError(f"{source} has neither {name} nor {name}.xz")
    return found


def _directory(text: str) -> Path | None:
    return None if text == "none" else Path(text)
