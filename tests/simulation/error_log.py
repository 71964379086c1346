"""Lines that a core logs at level ERROR: none ever should."""

import logging


class ErrorLog(logging.Handler):
    """Keeps lines of level ERROR and above."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name}: {record.getMessage()} {getattr(record, 'fields', '')}")

    def check(self) -> None:
        """Fail where there is one."""
        assert not self.lines, f"errors were logged: {self.lines}"
