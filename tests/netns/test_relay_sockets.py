"""The relay's sockets: where they are open, and what happens where the kernel has no room left to watch them."""

import asyncio
import errno
import os
import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.run import Run, Transmit
from connectivity.stun import AddressFamily
from relay.driver.sockets import RelaySockets
from tests.netns.plain_pair import entered, namespaces
from tests.netns.relay_stage import FAR, RELAY

pytestmark = pytest.mark.root

BOTH = (AddressFamily.IPV4, AddressFamily.IPV6)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with namespaces() as (here, _), entered(here), closing(asyncio.new_event_loop()) as made:
        slow = ["tbf", "rate", "1mbit", "burst", "4k", "limit", "1m"]  # so that a socket can be full
        subprocess.run(["tc", "qdisc", "replace", "dev", "veth0", "root", *slow], check=True)
        yield made


def sockets(loop: asyncio.AbstractEventLoop, **relayed_at: IPAddress) -> RelaySockets:
    addresses = {int(name[-1]): ip for name, ip in relayed_at.items()}
    made = RelaySockets(loop, on_listen=lambda _: None, on_relayed=lambda _: None)
    made.relay_at(addresses)
    made.start()
    return made


class Crowded:
    """An epoll that watches ``room`` more descriptors."""

    def __init__(self, epoll: select.epoll, room: int) -> None:
        self._epoll, self.room = epoll, room

    def register(self, descriptor: int, events: int) -> None:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # epoll_ctl(2): max_user_watches
        self.room -= 1
        self._epoll.register(descriptor, events)

    def __getattr__(self, name: str) -> object:
        return getattr(self._epoll, name)


def test_a_port_that_cannot_be_watched_is_not_open_and_leaves_nothing(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sockets(loop)) as relayed:
        crowded = Crowded(relayed._epoll, room=1)
        monkeypatch.setattr(relayed, "_epoll", crowded)
        before = len(os.listdir("/proc/self/fd"))
        assert relayed.open_relayed(50_000, BOTH) is None
        assert len(os.listdir("/proc/self/fd")) == before
        crowded.room = 2
        assert relayed.open_relayed(50_000, BOTH)
        relayed.close_relayed(50_000, BOTH)


def test_a_relayed_port_is_open_at_the_public_address_only(loop: asyncio.AbstractEventLoop) -> None:
    """Of a family without one any address of the host will do; an address that is not there opens nothing."""
    with closing(sockets(loop, ipv4=RELAY[4])) as relayed:
        assert relayed.open_relayed(50_000, BOTH)
        bound = [relayed.relayed(50_000, version) for version in (4, 6)]
        assert [opened and opened.local.ip for opened in bound] == [RELAY[4], ip_address("::")]
    with closing(sockets(loop, ipv4=ip_address("192.0.2.99"))) as relayed:
        assert relayed.open_relayed(50_000, BOTH) is None


def test_a_full_socket_that_cannot_be_watched_ends_nothing(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with closing(sockets(loop)) as relayed:
        assert relayed.open_relayed(50_000, (AddressFamily.IPV4,))
        by = relayed.relayed(50_000, 4)
        assert by is not None
        by.set_option(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        monkeypatch.setattr(loop, "add_writer", refuse)
        transmit = Transmit(None, Endpoint(FAR[4], 9), Run.single(bytes(1400)), 0)
        while not by.backlogged:
            relayed.send_to_peer(50_000, transmit, False)
        relayed.send_to_peer(50_000, transmit, False)
        monkeypatch.undo()
        relayed.send_to_peer(50_000, transmit, False)
        while by.backlogged:
            loop.run_until_complete(asyncio.sleep(0))
