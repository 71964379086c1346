"""Watches the network of a host that may move: says when the routes to the portal or to a relay are other ones.

The kernel tells by netlink that something about links, addresses, routes or rules has changed, which may be much and
often. What it says is not read: soon after the first word the kernel is asked for the routes themselves, with our mark,
and ``connectivity.roaming`` compares. While that waits nothing is read from the kernel, so that a flood of changes
costs no more than a few; what does not fit its buffer is lost, which is one more reason to look.

Once a second the clocks are compared, too: who was asleep for long has to begin anew, whatever the network.

pyroute2 runs an event loop inside, so each look has a thread of its own (as in ``io.host``).
"""

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any, Final

from pyroute2 import IPRoute, NetlinkError

from connectivity.clock import MILLISECOND, SECOND, Duration, Instant
from connectivity.endpoint import IPAddress
from connectivity.errors import chain
from connectivity.io.families import FAMILIES
from connectivity.io.guard import Guard, Timer
from connectivity.roaming import ASLEEP_NS, Clocks, Route, Routes

SOON_NS: Final = 50 * MILLISECOND  # changes come in groups: an address, its route, the old one's end
OFTEN_NS: Final = SECOND // 2  # between two looks where changes do not end and mean nothing
CALM_NS: Final = SECOND  # without a change, after which the next one is looked at soon again
BETWEEN_RESETS_NS: Final = SECOND  # who flaps between two networks is not to spend its time on logins
TICK_NS: Final = SECOND
MOST_DESTINATIONS: Final = 64  # a portal with many addresses, and its relays
_MOST_READ: Final = 1024  # messages thrown away at once
_RTN_UNICAST: Final = 1
_RTN_LOCAL: Final = 2

# linux/rtnetlink.h: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE, and the group of
# IPv6's rules, which has only a number (19).
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18

log = logging.getLogger("connectivity.io")


class NetworkWatch:
    """Calls ``changed`` with the reason, in the event loop's thread."""

    def __init__(
        self,
        destinations: Callable[[], Collection[IPAddress]],
        changed: Callable[[str], None],
        *,
        mark: int,
        fail: Callable[[Exception], None],
        needed: Callable[[], Collection[IPAddress]] = tuple,
        look: Callable[[Collection[IPAddress], int], "Found"] | None = None,
    ) -> None:
        """``destinations`` are those whose routes count, at most ``MOST_DESTINATIONS`` of them.

        Nothing is said while none of those ``needed`` can be reached.
        """
        self._destinations = destinations
        self._needed = needed
        self._changed = changed
        self._mark = mark
        self._look = look or ask_kernel
        self._loop = asyncio.get_running_loop()
        guard = self._guard = Guard(self._loop)
        guard.failed.add_done_callback(lambda failed: None if failed.cancelled() else fail(_error(failed)))
        self._looking = Timer(self._loop, guard, self._begin_look)
        self._ticking = Timer(self._loop, guard, self._tick)
        self._routes = Routes()
        self._clocks = Clocks(*_clocks())
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network-watch")
        self._netlink: socket.socket | None = None
        self._pending: asyncio.Future[Found] | None = None
        self._again = False
        self._delay = SOON_NS
        self._looked_at: Instant = 0
        self._reset_at: Instant = -BETWEEN_RESETS_NS

    def start(self) -> None:
        """Watch; a host whose kernel tells nobody is looked at by the clock's time only."""
        try:
            self._netlink = _subscribe()
        except OSError as error:
            log.warning("The kernel does not tell of changes of the network", extra={"fields": {"error": chain(error)}})
        self._read(True)
        self._look_in(0)
        self._tick()

    def settle(self) -> None:
        """All was made anew: compare with what is found next."""
        self._routes.forget()
        self._reset_at = time.monotonic_ns()
        self._look_in(0)

    def close(self) -> None:
        """Watch no more."""
        self._looking.cancel()
        self._ticking.cancel()
        if self._pending is not None:
            self._pending.cancel()
        if self._netlink is not None:
            self._read(False)
            self._netlink.close()
            self._netlink = None
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _tick(self) -> None:
        slept = self._clocks.slept(*_clocks())
        if slept >= ASLEEP_NS:
            self._tell(f"asleep for {slept // SECOND} s")
        elif slept >= SECOND or not self._routes.are_of(self._wanted()):
            self._look_in(0)
        self._ticking.set(time.monotonic_ns() + TICK_NS)

    def _wanted(self) -> list[IPAddress]:
        return list(dict.fromkeys(self._destinations()))[:MOST_DESTINATIONS]

    def _kernel_speaks(self) -> None:
        """Look soon, the sooner the calmer it has been; until then it may say what it likes."""
        with self._guard:
            self._read(False)
            now = time.monotonic_ns()
            calm = now - self._looked_at >= CALM_NS
            self._delay = SOON_NS if calm else min(2 * self._delay, OFTEN_NS)
            self._look_in(self._delay)

    def _look_in(self, delay: Duration) -> None:
        if not self._looking.is_set:
            self._looking.set(time.monotonic_ns() + delay)

    def _begin_look(self) -> None:
        if self._pending is not None:
            self._again = True  # what it finds may be old already
            return
        if self._netlink is not None:
            _discard(self._netlink)
        self._read(True)
        self._looked_at = time.monotonic_ns()
        self._pending = self._loop.run_in_executor(self._executor, self._look, self._wanted(), self._mark)
        self._pending.add_done_callback(self._looked)

    def _looked(self, done: "asyncio.Future[Found]") -> None:
        self._pending = None
        if done.cancelled():
            return
        with self._guard:
            try:
                reason = self._routes.compare(*done.result(), self._needed())
            except OSError as error:
                log.debug("Cannot ask for routes", extra={"fields": {"error": chain(error)}})
                reason = ""
            too_soon = self._reset_at + BETWEEN_RESETS_NS - time.monotonic_ns() if reason else 0
            if reason and too_soon <= 0:
                self._tell(reason)
            elif reason or self._again:
                self._look_in(max(0, too_soon))
            self._again = False

    def _tell(self, reason: str) -> None:
        self._changed(reason)  # which settles us, too

    def _read(self, wanted: bool) -> None:
        if self._netlink is None:
            return
        if wanted:
            self._loop.add_reader(self._netlink.fileno(), self._kernel_speaks)
        else:
            self._loop.remove_reader(self._netlink.fileno())


Found = tuple[dict[IPAddress, Route | None], frozenset[IPAddress]]


def ask_kernel(destinations: Collection[IPAddress], mark: int) -> Found:
    """The route to each destination for sockets with this mark, and all addresses of this host.

    Raises:
        OSError: the kernel cannot be asked.
    """
    try:
        with IPRoute() as ip:
            routes = {destination: _route(ip, destination, mark) for destination in destinations}
            own = frozenset(
                ip_address(address)
                for message in list(ip.get_addr())
                for address in (message.get_attr("IFA_LOCAL"), message.get_attr("IFA_ADDRESS"))
                if address is not None
            )
    except NetlinkError as error:
        raise OSError(error.code, chain(error)) from error
    return routes, own


def _route(ip: Any, destination: IPAddress, mark: int) -> Route | None:
    try:
        (message,) = ip.route("get", family=FAMILIES[destination.version], dst=str(destination), mark=mark)
    except (NetlinkError, ValueError):
        return None  # no route, or a host without this family
    source, gateway = message.get_attr("RTA_PREFSRC"), message.get_attr("RTA_GATEWAY")
    if message["type"] not in (_RTN_UNICAST, _RTN_LOCAL) or source is None:
        return None
    return Route(ip_address(source), None if gateway is None else ip_address(gateway), message.get_attr("RTA_OIF"))


def _subscribe() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    try:
        opened.bind((0, _GROUPS))
    except OSError:
        opened.close()
        raise
    return opened


def _discard(netlink: socket.socket) -> None:
    """Throw away what was said; what is left beyond the bound is said again."""
    for _ in range(_MOST_READ):
        try:
            netlink.recv(1)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # some was lost: we look now, whatever it was
                raise


def _clocks() -> tuple[int, int, int]:
    return time.monotonic_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()


def _error(failed: "asyncio.Future[None]") -> Exception:
    error = failed.exception()
    assert isinstance(error, Exception), "a guard's future ends with a defect only"
    return error
