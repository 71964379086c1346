"""How ``postern relay`` ends: it lets its clients finish, for a while, unless it is told not to."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from connectivity.endpoint import Endpoint
from connectivity.stun import Lifetime, Method, RequestedTransport
from lab.processes import wait_until
from tests.netns.plain_pair import namespaces
from tests.netns.relay_stage import ENVIRONMENT, FAR, RELAY, Portal, WireClient, bound, fetch, receive, running
from tests.unit.relay.playbook import error_code

pytestmark = pytest.mark.root

AT_ONCE = 20.0  # on any machine, and far below the drain of a minute


class Draining:
    """A relay with one client that has an allocation, in namespaces of their own."""

    def __init__(self, stack: ExitStack, **environment: str) -> None:
        self.here, self.there = stack.enter_context(namespaces())
        self.stack = stack
        self.portal = Portal(self.here)
        stack.callback(self.portal.close)
        self.process = stack.enter_context(running(self.here, {**ENVIRONMENT, **environment}))
        self.secret = self.portal.wait_join()
        self.client = self.new_client()
        self.port = self.client.allocate()

    def new_client(self) -> WireClient:
        return WireClient(self.stack, self.there, 4, self.secret)

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def expect_end(self) -> None:
        """It ends at once, and in order."""
        assert self.process.wait(AT_ONCE) == 0

    def wait_refusing(self) -> None:
        """New clients are refused: it drains."""
        wait_until(self._refuses, "Allocates are refused")

    def _refuses(self) -> bool:
        newcomer = self.new_client()  # whoever was served before it drained is not refused later
        code = error_code(newcomer.call(Method.ALLOCATE, RequestedTransport(17)))
        if not code:
            newcomer.call(Method.REFRESH, Lifetime(0))
        return code == 508


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def test_a_draining_relay_serves_those_it_has_and_ends_with_the_last(stack: ExitStack) -> None:
    relay = Draining(stack)
    peer = bound(stack, relay.there, 6)
    relay.client.bind(0x4000, Endpoint(FAR[6], peer.local.port))
    relay.terminate()
    relay.portal.wait_leave()
    relay.wait_refusing()
    status, body = fetch(relay.here, "readyz")
    answer = json.loads(body)
    assert (status, answer["ready"], answer["draining"], answer["portal"]) == (503, False, True, "away")
    assert fetch(relay.here, "healthz")[0] == 200

    relay.client.send_data(0x4000, [b"late, but welcome"], tos=0)
    assert receive(peer, 1, Endpoint(RELAY[6], relay.port)) == [b"late, but welcome"]
    assert error_code(relay.client.call(Method.REFRESH)) == 0
    with pytest.raises(subprocess.TimeoutExpired):
        relay.process.wait(0.2)

    relay.client.call(Method.REFRESH, Lifetime(0))
    relay.expect_end()


def test_a_relay_without_allocations_ends_as_soon_as_it_has_left(stack: ExitStack) -> None:
    relay = Draining(stack)
    relay.client.call(Method.REFRESH, Lifetime(0))
    relay.terminate()
    relay.portal.wait_leave()
    relay.expect_end()


def test_a_drain_has_an_end(stack: ExitStack) -> None:
    relay = Draining(stack, POSTERN_DRAIN_SECONDS="1")
    told = time.monotonic()
    relay.terminate()
    relay.expect_end()
    assert time.monotonic() - told >= 1


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_is_the_end(stack: ExitStack, second: signal.Signals) -> None:
    relay = Draining(stack)
    relay.terminate()
    relay.wait_refusing()
    relay.terminate(second)
    relay.expect_end()


@pytest.mark.parametrize(("seconds", "number"), [("0", signal.SIGTERM), ("60", signal.SIGINT)])
def test_some_ends_wait_for_nobody(stack: ExitStack, seconds: str, number: signal.Signals) -> None:
    relay = Draining(stack, POSTERN_DRAIN_SECONDS=seconds)
    relay.terminate(number)
    relay.expect_end()
