"""The compiled helper for tests: that of ``POSTERN_TEST_NATIVE``, else the one that lies there, else one made now."""

import os
from pathlib import Path

import pytest

from connectivity import native
from connectivity.native import build


def compiled(folders: pytest.TempPathFactory) -> native.Helper:
    """The helper; a test without a compiler is skipped, and under ``CI=true`` fails."""
    named = os.environ.get("POSTERN_TEST_NATIVE")
    if named is not None:
        return native.load(Path(named))
    try:
        return native.load()
    except native.NoHelper:
        return native.load(made(folders.mktemp("native")))


def made(folder: Path, *options: str) -> Path:
    """Compile it there."""
    try:
        folder.mkdir(exist_ok=True)
        build.build(folder, (*build.WARNINGS, *options))
    except FileNotFoundError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    return folder
