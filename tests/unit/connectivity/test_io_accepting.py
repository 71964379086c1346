"""Listening sockets: what there is no descriptor for waits, quietly; what cannot be bound is said."""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, cast

import pytest

from connectivity.endpoint import Endpoint
from connectivity.io.accepting import ACCEPTS_PER_TURN, PAUSE_SECONDS, Acceptor, open_listener


class Handle:
    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """An event loop that does what the test says."""

    def __init__(self) -> None:
        self.reader: Callable[[], None] | None = None
        self.later: list[tuple[float, Callable[[], None], Handle]] = []

    def add_reader(self, _: int, callback: Callable[[], None]) -> None:
        self.reader = callback

    def remove_reader(self, _: int) -> None:
        self.reader = None

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        self.later.append((delay, callback, Handle()))
        return self.later[-1][2]

    def pass_time(self) -> None:
        for _, callback, _ in self.later:
            callback()
        self.later.clear()


class Listener:
    """A listening socket with what ``accept`` says; nothing more waits at the end of it."""

    def __init__(self, *outcomes: int | None) -> None:
        self.outcomes = list(outcomes)
        self.is_closed = False
        self.accepted: list[socket.socket] = []

    def fileno(self) -> int:
        return 0

    def accept(self) -> tuple[socket.socket, Any]:
        if not self.outcomes:
            raise BlockingIOError
        number = self.outcomes.pop(0)
        if number is not None:
            raise OSError(number, os.strerror(number))
        self.accepted.append(socket.socket())
        return self.accepted[-1], ("198.51.100.1", 1)

    def close(self) -> None:
        self.is_closed = True
        for each in self.accepted:
            each.close()


class Accepting:
    """An acceptor of one such listener."""

    def __init__(self, *outcomes: int | None) -> None:
        self.loop, self.listener, self.pauses, self.got = Loop(), Listener(*outcomes), 0, 0
        self.acceptor = Acceptor(cast(asyncio.AbstractEventLoop, self.loop), logging.getLogger(), on_pause=self._pause)
        self.acceptor.start(cast(socket.socket, self.listener), self._take)

    def turn(self) -> None:
        """The listener is readable."""
        assert self.loop.reader is not None
        self.loop.reader()

    def _pause(self) -> None:
        self.pauses += 1

    def _take(self, accepted: socket.socket, _: Any) -> None:
        assert not accepted.getblocking()
        self.got += 1


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL])
def test_accepting_pauses_and_goes_on(number: int, caplog: pytest.LogCaptureFixture) -> None:
    under_test = Accepting(None, number, number, None)
    under_test.turn()
    assert (under_test.got, under_test.loop.reader, under_test.loop.later[0][0]) == (1, None, PAUSE_SECONDS)
    under_test.loop.pass_time()
    under_test.turn()
    under_test.loop.pass_time()
    under_test.turn()
    assert (under_test.got, under_test.pauses) == (2, 2)
    (record,) = caplog.records
    assert (record.levelno, record.message, record.exc_info) == (
        logging.WARNING,
        "Cannot accept connections for now",
        None,
    )
    under_test.acceptor.close()


def test_it_is_said_again_when_it_happens_again(caplog: pytest.LogCaptureFixture) -> None:
    under_test = Accepting(errno.EMFILE, None)
    under_test.turn()
    under_test.loop.pass_time()
    under_test.turn()
    under_test.listener.outcomes.append(errno.EMFILE)
    under_test.turn()
    assert len(caplog.records) == 2
    under_test.acceptor.close()


def test_a_connection_that_has_gone_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    under_test = Accepting(errno.ECONNABORTED, errno.EPERM, errno.ENETDOWN, None)
    under_test.turn()
    assert (under_test.got, under_test.pauses, caplog.records) == (1, 0, [])
    under_test.acceptor.close()


def test_others_get_their_turn() -> None:
    under_test = Accepting(*[None] * (ACCEPTS_PER_TURN + 1))
    under_test.turn()
    assert under_test.got == ACCEPTS_PER_TURN
    under_test.turn()
    assert under_test.got == ACCEPTS_PER_TURN + 1
    under_test.acceptor.close()


def test_the_end_closes_all_and_wakes_nobody() -> None:
    under_test = Accepting(errno.EMFILE)
    under_test.turn()
    under_test.acceptor.close()
    assert under_test.listener.is_closed
    assert all(handle.is_cancelled for _, _, handle in under_test.loop.later)


class WithoutIPv6(socket.socket):
    """What a kernel without IPv6 does."""

    def __init__(self, family: int = -1, *arguments: Any, **named: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        super().__init__(family, *arguments, **named)


def test_a_listener_is_there_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="Address already in use"):
        open_listener(Endpoint.parse(f"127.0.0.1:{taken.getsockname()[1]}"))
    with pytest.raises(OSError, match="Cannot assign requested address"):
        open_listener(Endpoint.parse("192.0.2.1:0"))
    monkeypatch.setattr(socket, "socket", WithoutIPv6)
    with pytest.raises(OSError, match="this host has no IPv6"):
        open_listener(Endpoint.parse("[::]:0"))


def test_the_unspecified_ipv6_address_takes_ipv4_too() -> None:
    with open_listener(Endpoint.parse("[::]:0")) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as four, socket.create_connection(("::1", port)) as six:
            assert {four.getpeername()[0], six.getpeername()[0]} == {"127.0.0.1", "::1"}
    with open_listener(Endpoint.parse("[::1]:0")) as listener:
        assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
