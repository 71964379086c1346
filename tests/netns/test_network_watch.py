"""The watch over a real kernel: what counts as another network, and what a flood of changes costs.

[pio-a: two more links, that lead nowhere, and the pair's own]    topology: see ``plain_pair``; no packet is sent
"""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from connectivity.endpoint import IPAddress
from connectivity.io import network_watch
from connectivity.io.network_watch import Found, NetworkWatch, ask_kernel
from tests.netns.plain_pair import entered, ip, namespaces

pytestmark = pytest.mark.root

MARK = 0xFD002021
FAR = [ip_address(text) for text in ("192.0.2.7", "2001:db8:ffff::7")]
PATIENCE = 20


@contextmanager
def host() -> Iterator[None]:
    """One that reaches everything by IPv4 through ``veth0``, from 198.51.100.1."""
    with namespaces() as (name, _), entered(name):
        for link in ("dummy0", "dummy1"):
            ip("link", "add", link, "type", "veth", "peer", "name", f"{link}-far")
            for end in (link, f"{link}-far"):
                ip("link", "set", end, "up")
        ip("route", "add", "default", "via", "198.51.100.2")
        yield


class Watched:
    """A watch that runs; ``looks`` counts how often the kernel was asked."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.looks = 0
        self._spoken = asyncio.Event()
        self._first = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.watch = NetworkWatch(lambda: FAR, self._changed, mark=MARK, fail=self._fail, look=self._look)

    async def begin(self) -> None:
        """Start, and know what is there now."""
        self.watch.start()
        async with asyncio.timeout(PATIENCE):
            await self._first.wait()
        if self.watch._pending is not None:
            await asyncio.wait({self.watch._pending})
        await asyncio.sleep(0)
        assert self.watch._routes.are_of(FAR)

    async def told(self) -> str:
        async with asyncio.timeout(PATIENCE):
            await self._spoken.wait()
        self._spoken.clear()
        return self.reasons[-1]

    def _look(self, destinations: Collection[IPAddress], mark: int) -> Found:
        self.looks += 1
        found = ask_kernel(destinations, mark)
        self._loop.call_soon_threadsafe(self._first.set)
        return found

    def _changed(self, reason: str) -> None:
        self.reasons.append(reason)
        self._spoken.set()
        self.watch.settle()

    def _fail(self, error: Exception) -> None:
        self.reasons.append(repr(error))
        self._spoken.set()


def watching(test: Callable[[Watched], Awaitable[None]]) -> None:
    async def steps() -> None:
        watched = Watched()
        try:
            await watched.begin()
            await test(watched)
        finally:
            watched.watch.close()

    with host():
        asyncio.run(steps())


@pytest.mark.parametrize(
    ("commands", "reason"),
    [
        (
            ["address del 198.51.100.1/24 dev veth0", "address add 198.51.100.9/24 dev veth0",
             "route add default via 198.51.100.2"],
            "another source address",
        ),
        (["route replace default via 198.51.100.3"], "another gateway"),
        (
            ["address add 203.0.113.1/24 dev dummy0", "route replace default via 203.0.113.2 dev dummy0"],
            "another link",
        ),
        (
            ["link set veth0 down", "address add 2001:db8:1::5/64 dev dummy0 nodad",
             "route add default via 2001:db8:1::1"],
            "a destination is out of reach",
        ),
        # Only what carries our mark goes elsewhere.
        (
            ["address add 203.0.113.1/24 dev dummy0", f"rule add fwmark {MARK} table 77",
             "route add default via 203.0.113.2 table 77"],
            "another link",
        ),
    ],
    ids=["address", "gateway", "link", "family", "rule"],
)  # fmt: skip
def test_another_way_is_told(commands: list[str], reason: str) -> None:
    async def test(watched: Watched) -> None:
        for command in commands:
            ip(*command.split())
        assert await watched.told() == reason

    watching(test)


def test_what_leaves_the_ways_alone_is_no_news() -> None:
    async def test(watched: Watched) -> None:
        looks = watched.looks
        for command in (
            "link add docker0 type bridge",
            "link add vethx type veth peer name vethy",
            "link set vethx master docker0 up",
            "address add 172.17.0.1/16 dev docker0",
            "address add 198.51.100.77/24 dev veth0",  # one more beside it, as privacy addresses are
            "route add 10.0.0.0/8 via 198.51.100.2",
            "tuntap add tun-pio mode tun",
            "address add 100.64.0.1/32 dev tun-pio",
            "link set veth0 down",  # a cable pulled out and put in again
            "link set veth0 up",
            "route add default via 198.51.100.2",
            "route replace default via 198.51.100.3",  # and now for something that is
        ):
            ip(*command.split())
        assert await watched.told() == "another gateway"
        assert watched.looks > looks
        assert watched.reasons == ["another gateway"]

    watching(test)


def test_a_flood_of_changes_is_looked_at_now_and_then_and_a_real_one_in_it_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty thousand changes, far more than the kernel keeps for us."""
    batch = tmp_path / "flood"
    lines = [f"route {verb} 10.{n >> 8}.{n & 255}.0/24 dev dummy1" for n in range(10_000) for verb in ("add", "del")]
    batch.write_text("\n".join(lines), encoding="ascii")
    discarded: list[int] = []

    def discard(netlink: object) -> None:
        discarded.append(1)
        _discard(netlink)  # type: ignore[arg-type]  # passed through

    _discard = network_watch._discard
    monkeypatch.setattr(network_watch, "_discard", discard)

    async def test(watched: Watched) -> None:
        looks, loop = watched.looks, asyncio.get_running_loop()
        began = loop.time()
        await loop.run_in_executor(None, lambda: subprocess.run(["ip", "-batch", str(batch)], check=True))
        ip("route", "replace", "default", "via", "198.51.100.3")
        assert await watched.told() == "another gateway"
        assert watched.looks - looks <= 10 + 4 * (loop.time() - began)
        assert discarded

    watching(test)
