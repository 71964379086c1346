"""Figures in documents: of one run on a machine that was left alone, between marks, and the picture beside them."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.quiet import QUIET_AT_MOST, busy_share
from connectivity.errors import FatalError
from connectivity.settings import SettingsReader

DOCUMENT: Final = "performance.md"
_END: Final = "<!-- end of figures -->"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a kind of benchmark has its figures: in the document between marks with its name, and in a picture."""

    kind: str
    picture: str

    def read_directory(self, reader: SettingsReader) -> Path | None:
        """Declare and read the directory of the documents that are to be written."""
        text = f"directory whose {DOCUMENT} and {self.picture} get these figures"
        return reader.optional(None, "--docs", Path, None, text)

    def look_around(self, directory: Path | None) -> float:
        """The share of the processors that others use, before anything is measured; told if it is much.

        Raises:
            FatalError: it is much, and documents were to be written; or these have no place for figures.
        """
        if directory is not None:
            self.put_between(_text(directory / DOCUMENT), "")
        busy = busy_share()
        if busy > QUIET_AT_MOST:
            told = f"others use {busy:.0%} of the processors, more than {QUIET_AT_MOST:.0%}"
            if directory is not None:
                raise FatalError(f"no figures for {directory}: {told}")
            print(f"warning: {told}", file=sys.stderr)
        return busy

    def write(self, directory: Path, body: str, picture: str) -> None:
        """Replace the figures and the picture."""
        path = directory / DOCUMENT
        path.write_text(self.put_between(_text(path), body), encoding="utf-8")
        (directory / self.picture).write_text(picture, encoding="utf-8")

    def figures(self, text: str) -> str:
        """What stands between the marks.

        Raises:
            FatalError: they are not there.
        """
        return self._parts(text)[1].strip()

    def put_between(self, text: str, body: str) -> str:
        """A document with other figures between its two marks.

        Raises:
            FatalError: they are not there.
        """
        before, _, after = self._parts(text)
        return f"{before}{self._begin}\n\n{body.strip()}\n\n{_END}{after}"

    @property
    def _begin(self) -> str:
        return f"<!-- figures of bench {self.kind} -->"

    def _parts(self, text: str) -> tuple[str, str, str]:
        before, begin, rest = text.partition(self._begin)
        figures, end, after = rest.partition(_END)
        if not begin or not end:
            raise FatalError(f"the document has no {self._begin} with {_END} behind it")
        return before, figures, after


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FatalError(f"{path}: {error.strerror}") from error
