"""The table of a node's connections: whom it asks, whom it finds, and what it keeps of those that are gone."""

from collections import Counter
from ipaddress import ip_address
from random import Random
from typing import Any, cast

from connectivity.endpoint import Endpoint
from connectivity.ice import IceCredentials
from connectivity.node.connection import Connection
from connectivity.node.connections import ConnectionTable
from connectivity.node.parameters import Parameters
from connectivity.stun import Message, MessageClass, Method, Username

SENDER = Endpoint(ip_address("192.0.2.1"), 4000)
ICE = IceCredentials("ours", "password")
MESSAGE = Message(Method.BINDING, MessageClass.REQUEST, bytes(12), (Username("ours:ours"),))
ANSWER = Message(Method.BINDING, MessageClass.SUCCESS, bytes(12), ())


class Scripted:
    """What the table looks at of a connection, with a count of how often."""

    def __init__(self, index: int, deadline: int | None = None) -> None:
        self.connection_id, self.index, self.deadline = f"c-{index}", index, deadline
        self.parameters = Parameters(bytes([index]) * 32, bytes(32), ICE, ICE)
        self.asked = self.offered = 0
        self.accepted = True
        self.waiting_packets = self.sent_bytes = self.received_bytes = 0
        self.agent = self.tunnel = cast(Any, self)
        self.drops: Counter[Any] = Counter()
        self.refused: Counter[Any] = Counter()

    def poll_timeout(self) -> int | None:
        self.asked += 1
        return self.deadline

    def close(self) -> None:
        self.waiting_packets = 0

    def accepts(self, _: Message) -> bool:
        self.offered += 1
        return self.accepted


def table_of(*connections: Scripted) -> Any:
    table = ConnectionTable(Random(1).randbytes)
    for connection in connections:
        table.add(cast(Connection, connection))
    return table


def test_only_who_was_called_or_is_due_is_asked_for_its_deadline() -> None:
    first, second, third = Scripted(1, 10), Scripted(2, 20), Scripted(3)
    table = table_of(first, second, third)
    assert table.poll_timeout() == 10
    first.deadline = 30
    assert table.due(10) == [first]  # not called since: what it said counts
    assert table.poll_timeout() == 20
    assert (first.asked, second.asked, third.asked) == (2, 1, 1)
    third.deadline = 5
    assert table.get("c-3") is third
    assert table.poll_timeout() == 5
    assert table.at_index(2 << 8 | 7) is second
    second.deadline = None
    assert table.poll_timeout() == 5
    assert table.due(25) == [third]


def test_who_is_gone_is_in_no_table() -> None:
    connection = Scripted(1, 10)
    table = table_of(connection)
    assert table.accepting(MESSAGE, SENDER) is connection
    assert table.poll_timeout() == 10
    table.remove(connection)
    assert table.get("c-1") is table.at_index(1 << 8) is table.of_key(bytes([1]) * 32) is None
    assert table.accepting(MESSAGE, SENDER) is table.poll_timeout() is None
    assert list(table) == list(table.touched()) == table.due(100) == []


def test_the_sender_of_a_check_is_a_guess_and_no_more() -> None:
    first, second = Scripted(1), Scripted(2)
    first.accepted = False
    table = table_of(first, second)
    assert table.accepting(MESSAGE, SENDER) is second
    assert table.accepting(MESSAGE, SENDER) is second
    assert (first.offered, second.offered) == (1, 2)  # the second time nobody else was asked
    first.accepted, second.accepted = True, False  # behind one NAT a port changes hands
    assert table.accepting(MESSAGE, SENDER) is first
    assert table.accepting(MESSAGE, SENDER) is first
    assert (first.offered, second.offered) == (3, 3)


def test_a_check_is_offered_to_whom_it_names_only() -> None:
    first, second = Scripted(1), Scripted(2)
    second.parameters = second.parameters._replace(local=IceCredentials("other", "password"))
    table = table_of(first, second)
    other = Message(Method.BINDING, MessageClass.REQUEST, bytes(12), (Username("other:ours"),))
    nobodys = Message(Method.BINDING, MessageClass.REQUEST, bytes(12), (Username("nobody:ours"),))
    unnamed = Message(Method.BINDING, MessageClass.REQUEST, bytes(12), ())
    assert table.accepting(other, SENDER) is second
    assert table.accepting(nobodys, SENDER._replace(port=1)) is None
    assert table.accepting(unnamed, SENDER._replace(port=2)) is None
    assert (first.offered, second.offered) == (0, 1)
    second.accepted = False
    assert table.accepting(ANSWER, SENDER._replace(port=3)) is first


def test_a_key_may_have_two_connections() -> None:
    first, second = Scripted(1), Scripted(2)
    second.parameters = first.parameters
    table = table_of(first, second)
    assert table.of_key(bytes([1]) * 32) is first
    table.remove(first)
    assert table.of_key(bytes([1]) * 32) is second
    table.remove(second)
    assert table.of_key(bytes([1]) * 32) is None


def test_what_senders_are_remembered_is_bounded() -> None:
    connection = Scripted(1)
    table = table_of(connection)
    for number in range(10_000):
        table.accepting(MESSAGE, SENDER._replace(ip=ip_address(number)))
    assert len(table._senders) <= 4096
