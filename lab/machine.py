"""What a command that builds labs needs from the machine, and how it goes when it is told to."""

import os
import shutil
import signal
from types import FrameType
from typing import Final, NoReturn

from lab.errors import LabError

_COMMANDS: Final = ("ip", "nft", "ethtool", "sysctl", "nstat", "ss", "iperf3", "curl")


def check_machine(who: str) -> None:
    """Raise LabError with all that is missing, at once."""
    missing = [] if os.geteuid() == 0 else ["root (network namespaces)"]
    missing += [f"the command {name}" for name in _COMMANDS if shutil.which(name) is None]
    if missing:
        raise LabError(f"{who} needs {', '.join(missing)}")


def leave_in_order() -> None:
    """From now on a termination takes the same way out as Ctrl-C: through every clean-up."""
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
