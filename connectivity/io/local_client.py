"""Asks a service of this host over its Unix socket (``connectivity.io.local_socket``), for the commands of people."""

import http.client
import json
import os
import pwd
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from connectivity.errors import FatalError

_TIMEOUT_SECONDS: Final = 5.0
_SUCCESSES: Final = range(200, 300)


class NobodyAnswers(FatalError):
    """No process serves this socket; a killed one may have left it behind."""


@dataclass(frozen=True, slots=True)
class LocalService:
    """A service by its socket; ``service`` ("relay") and ``name`` ("admin socket") are the words for people."""

    service: str
    name: str
    path: Path

    def ask(self, method: str, target: str, body: str | None = None) -> Any:
        """The answer's JSON; None if it has none.

        Raises:
            FatalError: nobody answers, or not us, or with a refusal.
        """
        connection = _Connection(self.path)
        try:
            connection.request(method, target, body)
            answer = connection.getresponse()
            text = answer.read().decode()
            if answer.status in _SUCCESSES:
                return json.loads(text) if text else None
        except PermissionError as error:
            owner = _owner(self.path)
            whose = "another user" if owner is None else f"user {_user(owner.st_uid)}"
            reason = f"the {self.name} {self.path} is for {whose}, and this is user {_user(os.geteuid())}"
            raise FatalError(reason) from error
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise NobodyAnswers(f"no {self.service} answers at {self.path}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise FatalError(f"no {self.service} answers at {self.path}") from error
        finally:
            connection.close()
        raise FatalError(text.strip() or f"the {self.service} answered {answer.status}")


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except PermissionError:
            user, group = os.geteuid(), os.getegid()
            if not _become_owner(self._path):
                raise
            try:
                self.sock.connect(str(self._path))
            finally:
                os.seteuid(user)
                os.setegid(group)


def _become_owner(path: Path) -> bool:
    """Become whom the socket is for, where root may not open it: a container's root has no CAP_DAC_OVERRIDE.

    Returns whether we are somebody else now; not, where we are not root or may not become another user.
    """
    owner = _owner(path)
    if os.geteuid() != 0 or owner is None or owner.st_uid == 0:
        return False
    try:
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
    except PermissionError:
        return False
    return True


def _user(number: int) -> str:
    """By name, where the host knows one."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _owner(path: Path) -> os.stat_result | None:
    """Of the socket, or of the nearest folder above it that shows itself."""
    for place in (path, *path.parents):
        try:
            return place.stat()
        except PermissionError:
            continue
        except OSError:
            break
    return None
