"""Listening sockets whose connections are taken, whatever the process has run out of.

asyncio's own servers write a traceback for each turn without a descriptor, and say nothing when an address to listen on
has no socket. Here a listener is there or it is an ``OSError``; when descriptors or memory are out, accepting pauses,
and that is said once.
"""

import asyncio
import errno
import functools
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from connectivity.endpoint import Endpoint
from connectivity.errors import chain
from connectivity.io import descriptors

PAUSE_SECONDS: Final = 1.0
BACKLOG: Final = 1024
# Of one listener before others get their turn, so that what was accepted is read before many more come.
ACCEPTS_PER_TURN: Final = 8
# accept(2) also passes on what has befallen a connection that waited; the next one may be sound.
_OF_THE_CONNECTION: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPERM,
        errno.ENETDOWN,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
    }
)

OnAccepted: TypeAlias = Callable[[socket.socket, Any], None]


def open_listener(address: Endpoint) -> socket.socket:
    """A listening TCP socket at this address; ``[::]`` takes IPv4 too, every other address its own family only.

    Raises:
        OSError: it cannot be had; the text does not name the address.
    """
    family = socket.AF_INET if address.ip.version == 4 else socket.AF_INET6
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not address.ip.is_unspecified))
            listener.bind((str(address.ip), address.port))
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            raise OSError(error.errno, f"this host has no IPv{address.ip.version}") from None
        raise OSError(error.errno, os.strerror(error.errno or 0)) from None
    return listener


class Acceptor:
    """Takes connections from any number of listeners and hands each to the function that came with its listener.

    Args:
        log: where a pause is told.
        kept_free: descriptors that are left for others, see ``descriptors.keep_some_free``.
        on_pause: called each time that accepting has to pause.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        log: logging.Logger,
        *,
        on_pause: Callable[[], None],
        kept_free: int = 0,
    ) -> None:
        self._loop = loop
        self._log = log
        self._kept_free = kept_free
        self._on_pause = on_pause
        self._listeners: list[socket.socket] = []
        self._pauses: set[asyncio.TimerHandle] = set()
        self._is_exhausted = False  # and it was said

    def start(self, listener: socket.socket, on_accepted: OnAccepted) -> None:
        """Begin to accept. The listener is ours from now on."""
        self._listeners.append(listener)
        self._resume(listener, on_accepted)

    def close(self) -> None:
        """Close all listeners."""
        for pause in self._pauses:
            pause.cancel()
        self._pauses.clear()
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()

    def _accept(self, listener: socket.socket, on_accepted: OnAccepted) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                if self._kept_free:
                    descriptors.keep_some_free(listener.fileno(), self._kept_free)
                accepted, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                self._is_exhausted = False
                return
            except OSError as error:
                if error.errno in _OF_THE_CONNECTION:
                    continue
                self._pause(listener, on_accepted, error)
                return
            accepted.setblocking(False)
            on_accepted(accepted, address)

    def _pause(self, listener: socket.socket, on_accepted: OnAccepted, error: OSError) -> None:
        """Out of descriptors, buffers or memory: asking again at once would only burn the processor."""
        self._on_pause()
        if not self._is_exhausted:
            self._is_exhausted = True
            self._log.warning("Cannot accept connections for now", extra={"fields": {"error": chain(error)}})
        self._loop.remove_reader(listener.fileno())

        def resume() -> None:
            self._pauses.discard(handle)
            self._resume(listener, on_accepted)

        handle = self._loop.call_later(PAUSE_SECONDS, resume)
        self._pauses.add(handle)

    def _resume(self, listener: socket.socket, on_accepted: OnAccepted) -> None:
        self._loop.add_reader(listener.fileno(), functools.partial(self._accept, listener, on_accepted))
