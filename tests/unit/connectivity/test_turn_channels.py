"""The channel table: numbers, ages, reuse."""

import pytest

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.turn.channels import LAST_NUMBER, ChannelTable

PEER = Endpoint.parse("192.0.2.1:50000")
OTHER = Endpoint.parse("192.0.2.2:50000")
MINUTE = 60 * SECOND
START = 7 * MINUTE


@pytest.fixture
def table() -> ChannelTable:
    return ChannelTable()


def test_numbers_ascend_from_0x4000(table: ChannelTable) -> None:
    assert _request(table, PEER, START) == 0x4000
    assert _request(table, OTHER, START) == 0x4001


def test_a_channel_in_flight_sends_and_receives_for_ten_minutes(table: ChannelTable) -> None:
    number = _request(table, PEER, START)
    assert table.number_for(PEER, START + 10 * MINUTE - 1) == number
    assert table.number_for(PEER, START + 10 * MINUTE) is None
    assert not table.is_confirmed(PEER, START)
    assert table.receive(number, START + 10 * MINUTE - 1) == PEER
    assert table.receive(number, START + 10 * MINUTE) is None
    assert table.receive(0x4FFF, START) is None


def test_a_confirmed_channel_sends_for_ten_minutes(table: ChannelTable) -> None:
    number = _request(table, PEER, START)
    assert table.confirm(number, START + SECOND)
    assert table.receive(number, START + SECOND) == PEER
    bound = START + SECOND
    assert table.is_confirmed(PEER, bound + 10 * MINUTE - 1)
    assert table.number_for(PEER, bound + 10 * MINUTE - 1) == number
    assert not table.is_confirmed(PEER, bound + 10 * MINUTE)
    assert table.number_for(PEER, bound + 10 * MINUTE) is None


def test_the_same_peer_gets_its_number_back_until_the_cool_down_is_over(table: ChannelTable) -> None:
    number = _bound(table, PEER, START)
    assert _request(table, PEER, START + 15 * MINUTE - 1) == number
    table.clear()
    number = _bound(table, PEER, START)
    assert _request(table, PEER, START + 15 * MINUTE) == number + 1


def test_a_lapsed_channel_sends_again_right_behind_its_new_request(table: ChannelTable) -> None:
    number = _bound(table, PEER, START)
    late = START + 12 * MINUTE
    assert table.number_for(PEER, late) is None
    assert _request(table, PEER, late) == number
    assert table.number_for(PEER, late) == number
    assert table.receive(number, late) == PEER, "the relay may have rebound it before its answer reaches us"


def test_a_confirmed_channel_is_preferred_to_one_in_flight(table: ChannelTable) -> None:
    first = _request(table, PEER, START)
    second = _request(table, PEER, START)
    assert first != second
    assert table.number_for(PEER, START) in (first, second)
    table.confirm(first, START)
    assert table.number_for(PEER, START) == first


def test_refresh_is_due_after_five_minutes_if_something_was_received(table: ChannelTable) -> None:
    number = _bound(table, PEER, START)
    silent = _bound(table, OTHER, START)
    assert table.receive(number, START + SECOND) == PEER
    assert list(table.due({}, START + 5 * MINUTE - 1)) == []
    assert list(table.due({}, START + 5 * MINUTE)) == [(PEER, number)]
    assert list(table.due({number}, START + 5 * MINUTE)) == []
    table.confirm(number, START + 5 * MINUTE)
    assert list(table.due({}, START + 15 * MINUTE)) == [], "nothing came since"
    assert silent != number


def test_numbers_wrap_and_only_lapsed_silent_ones_are_recycled(table: ChannelTable) -> None:
    numbers = [_bound(table, _peer(index), START) for index in range(4096)]
    assert (numbers[0], numbers[-1]) == (0x4000, LAST_NUMBER)
    assert len(table) == 4096
    assert table.request(OTHER, {}, START + 15 * MINUTE - 1) is None
    assert table.receive(0x4000, START + SECOND) == _peer(0)
    recycled = START + 15 * MINUTE
    assert table.request(OTHER, {0x4001}, recycled) == 0x4002, "0x4000 received, 0x4001 has a request under way"
    assert table.number_for(_peer(2), recycled) is None
    assert table.receive(0x4002, recycled) == OTHER, "the relay has let the old one go by then"
    assert len(table) == 4096


def test_clearing_keeps_the_numbering(table: ChannelTable) -> None:
    _bound(table, PEER, START)
    table.clear()
    assert len(table) == 0
    assert not table.confirm(0x4000, START)
    assert _request(table, PEER, START) == 0x4001


def test_removing(table: ChannelTable) -> None:
    number = _bound(table, PEER, START)
    table.remove(number)
    table.remove(number)
    assert table.number_for(PEER, START) is None
    assert len(table) == 0


def _peer(index: int) -> Endpoint:
    return Endpoint(PEER.ip, 1024 + index)


def _request(table: ChannelTable, peer: Endpoint, now: int) -> int:
    number = table.request(peer, {}, now)
    assert number is not None
    return number


def _bound(table: ChannelTable, peer: Endpoint, now: int) -> int:
    number = _request(table, peer, now)
    assert table.confirm(number, now)
    return number
