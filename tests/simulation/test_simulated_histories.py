"""Histories that once broke a promise, as the simulated world found them; the names say what went wrong."""

from collections.abc import Iterator

import pytest

from connectivity.clock import SECOND
from tests.simulation.machine import SimulatedWorld

OPEN = {"alice": "open", "desk": "open", "cellar": "open"}


@pytest.fixture
def state() -> Iterator[SimulatedWorld]:
    """Looked at to its end, as those of the property test are."""
    state = SimulatedWorld()
    yield state
    state.teardown()


def test_a_gateway_process_that_is_new_is_asked_for_every_resource_again(state: SimulatedWorld) -> None:
    state.build(seed=0, home=OPEN, addresses={}, relay_count=1)
    state.reach(client="alice", resource="wiki")
    state.kill(name="desk", then=0.0)
    state.start(name="desk", then=2.0)
    state.reach(client="alice", resource="printers")
    state.reach(client="alice", resource="wiki")


def test_a_gateway_that_lost_its_authorizations_and_whose_goodbye_is_lost_is_asked_again(state: SimulatedWorld) -> None:
    state.build(seed=0, home=OPEN, addresses={}, relay_count=1)
    for resource in ("wiki", "printers"):
        state.reach(client="alice", resource=resource)
    state.cut(name="alice", then=0.0)
    state.restart_portal(seconds=0.0, then=2.0)  # the gateway's new list names nobody
    state.plug(name="alice", then=2.0)
    state.delete(resource="printers", then=0.3)
    state.change(resource="printers", is_filtered=False, is_elsewhere=False, then=0.3)
    state.reach(client="alice", resource="printers")
    state.reach(client="alice", resource="wiki")


def test_behind_a_router_that_forgot_us_the_relay_is_asked_what_it_holds(state: SimulatedWorld) -> None:
    state.build(seed=0, home=OPEN | {"alice": "only relays"}, addresses={}, relay_count=1)
    state.reach(client="alice", resource="printers")
    state.reboot_router(name="alice", then=2.0)
    state.world.reach("alice", "printers", within=40 * SECOND)


def test_a_gateway_process_that_is_new_is_asked_for_every_name_again(state: SimulatedWorld) -> None:
    state.build(seed=0, home=OPEN, addresses={}, relay_count=1)
    state.reach_name(client="alice", name="app.office.test", version=6)
    state.kill(name="desk", then=0.0)
    state.start(name="desk", then=2.0)
    state.reach(client="alice", resource="wiki")
    state.world.reach_name("alice", "mail.office.test", 4, within=40 * SECOND)


def test_a_relay_that_restarts_unnoticed_is_asked_what_it_holds_once_the_path_is_dead(state: SimulatedWorld) -> None:
    homes = {"alice": "by address", "desk": "firewall", "cellar": "symmetric"}
    state.build(seed=318, home=homes, addresses={"cellar": (4,)}, relay_count=1)
    state.reach(client="alice", resource="racks")
    state.restart_relay(name="east", new_secret=False, new_address=False, then=2.0)
    state.world.reach("alice", "racks", within=40 * SECOND)


def test_channels_of_a_laptop_that_moves_all_the_time_are_no_leftovers(state: SimulatedWorld) -> None:
    """A gateway keeps the numbers that it bound to each of its addresses, 4,096 at most."""
    state.build(seed=0, home=OPEN, addresses={}, relay_count=1)
    for _ in range(15):
        for home in ("restricted", "open"):
            state.roam(name="alice", home=home, addresses=(4, 6), notice=0.3, then=0.3)
            state.reach(client="alice", resource="racks")
