"""HTTP over a Unix socket that only its owner may open: how a service talks with the people of its own host.

A socket that a killed run left behind is replaced, one that another process serves is not. ``PUT /log-level`` with a
filter is part of every such server.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from aiohttp import web

from connectivity.errors import FatalError, chain
from connectivity.io import logs
from connectivity.io.http import HttpServer
from connectivity.io.http_limits import OPERATOR
from connectivity.settings import LocalSocket

_FOLDER_MODE: Final = 0o755

_log = logging.getLogger("connectivity.io")


class LocalServer:
    """Serves ``routes`` at a path of this host. ``name`` is how it is called in what people read."""

    def __init__(
        self,
        name: str,
        routes: Iterable[web.AbstractRouteDef],
        set_filter: Callable[[str], None] = logs.set_filter,
    ) -> None:
        self._name = name
        self._set_filter = set_filter
        self._path: Path | None = None
        self._inode = 0
        self._http = HttpServer("the operator", [*routes, web.put("/log-level", self._set_log_level)], OPERATOR)

    async def start(self, wanted: LocalSocket) -> None:
        """Begin to serve.

        Raises:
            FatalError: the socket was demanded and cannot be had.
        """
        path = wanted.path
        if path is None:
            return
        try:
            bound = _bind(path, may_make_folder=not wanted.is_demanded)
        except OSError as error:
            if wanted.is_demanded:
                raise FatalError(f"cannot serve the {self._name} {path}") from error
            _log.info(f"No {self._name}", extra={"fields": {"path": path, "reason": chain(error)}})
            return
        self._path, self._inode = path, path.stat().st_ino
        await self._http.serve(bound)

    async def close(self) -> None:
        """Stop serving; the socket's file goes, unless another process has replaced it."""
        if self._path is None:
            return
        try:
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        except OSError as error:
            _log.debug("A socket's file stays", extra={"fields": {"path": self._path, "reason": chain(error)}})
        await self._http.close()

    async def _set_log_level(self, request: web.Request) -> web.Response:
        try:
            self._set_filter((await request.text()).strip())
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        return web.Response(status=204)


def _bind(path: Path, *, may_make_folder: bool) -> socket.socket:
    """A socket that only we may open.

    Raises:
        OSError: there can be none here, or another process serves it, which the text says.
    """
    if may_make_folder:
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        if path.is_socket():
            if _is_served(path):
                raise OSError("another process serves it")
            path.unlink()
        bound.bind(str(path))
        bound.listen()
        return bound
    except BaseException:
        bound.close()
        raise
    finally:
        os.umask(before)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        return True
