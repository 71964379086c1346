"""Log files beside standard error: JSON lines, bounded in size and number, never in the way of what they tell of.

``postern-client.jsonl`` is written to; at ``MOST_BYTES`` it becomes ``postern-client.1.jsonl``, and so on up to 4. A
full disk, or a folder that is gone, costs lines and nothing else: after a failure nothing is tried for a minute.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

MOST_BYTES: Final = 10_000_000  # what an editor opens without thinking; with the old ones 50 MB a service
KEPT_FILES: Final = 5
RETRY_SECONDS: Final = 60.0
_FOLDER_MODE: Final = 0o750
_FILE_MODE: Final = 0o640  # for the service and, by the folder's group, those who read logs


class LogFile:
    """Lines of one service.

    Args:
        folder: made if it is missing.
        name: of the files.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        most_bytes: int = MOST_BYTES,
        write: Callable[[int, bytes], int] = os.write,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._name = name
        self._most_bytes = most_bytes
        self._write = write
        self._clock = clock
        self._descriptor: int | None = None
        self._size = 0
        self._is_torn = False  # the last line is not whole
        self._retry_at: float | None = None  # None: all is well

    @property
    def path(self) -> Path:
        """The file that is written to."""
        return self._numbered(0)

    def write(self, line: str) -> OSError | None:
        """Append a line; what failed, once for each time that it begins to fail."""
        if self._retry_at is not None and self._clock() < self._retry_at:
            return None
        try:
            self._append((line + "\n").encode("utf-8", "backslashreplace"))
        except OSError as error:
            was_well, self._retry_at = self._retry_at is None, self._clock() + RETRY_SECONDS
            self.close()
            return error if was_well else None
        self._retry_at = None
        return None

    def close(self) -> None:
        """Let go of the file; a later line opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, data: bytes) -> None:
        if self._descriptor is not None and self._size + len(data) > self._most_bytes and self._size:
            self.close()
            self._rotate()
        if self._descriptor is None:
            self._descriptor = self._open()
        if self._is_torn:
            data = b"\n" + data
        written = self._write(self._descriptor, data)
        self._size += written
        self._is_torn = written < len(data)
        if self._is_torn:
            raise OSError("no room for a whole line")

    def _open(self) -> int:
        self._folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        opened = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _FILE_MODE)
        os.fchmod(opened, _FILE_MODE)
        self._size = os.fstat(opened).st_size
        return opened

    def _rotate(self) -> None:
        for number in range(KEPT_FILES - 1, 0, -1):
            try:
                os.replace(self._numbered(number - 1), self._numbered(number))
            except FileNotFoundError:
                continue

    def _numbered(self, number: int) -> Path:
        return self._folder / (f"{self._name}.{number}.jsonl" if number else f"{self._name}.jsonl")
