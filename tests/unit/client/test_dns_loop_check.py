"""A server of this host that asks us in turn is found by a question that comes back."""

import asyncio
from collections.abc import Callable
from ipaddress import ip_address

import dns.message
import dns.name
import pytest

from client.dns.actions import ForwardQuery, Transport
from client.dns_io import loop_check
from client.dns_io.loop_check import LoopCheck
from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint

HERE = ip_address("127.0.0.1")
DOCKERS = ip_address("127.0.0.11")
ELSEWHERE = ip_address("192.0.2.1")


class Stage:
    """A check, what it asked, and its time."""

    def __init__(self) -> None:
        self.asked: list[ForwardQuery] = []
        self.now = 0
        self.check = LoopCheck(ask=self.asked.append, rng=lambda count: bytes(count), clock=lambda: self.now)


def test_only_servers_at_addresses_of_this_host_are_asked_each_by_a_name_of_its_own() -> None:
    stage = Stage()
    stage.check.check([HERE, ELSEWHERE, DOCKERS, ip_address("::1"), ip_address("2001:db8::1")])
    assert [one.server for one in stage.asked] == [Endpoint(ip, 53) for ip in (HERE, DOCKERS, ip_address("::1"))]
    assert {(one.transport, one.through_tunnel) for one in stage.asked} == {(Transport.UDP, False)}
    names = [dns.message.from_wire(one.message).question[0].name for one in stage.asked]
    assert len(set(names)) == 3
    assert all(name.is_subdomain(dns.name.from_text("example.com")) for name in names)


@pytest.mark.parametrize("spelt", [str.lower, str.upper, str.title])
def test_what_comes_back_names_its_server_however_it_is_spelt(spelt: Callable[[str], str]) -> None:
    stage = Stage()
    stage.check.check([HERE, DOCKERS])
    asked = dns.message.from_wire(stage.asked[1].message).question[0]
    returned = dns.message.make_query(spelt(asked.name.to_text()), asked.rdtype, use_edns=True).to_wire()
    assert stage.check.came_back(returned) == DOCKERS


def test_other_questions_and_noise_did_not_go_round() -> None:
    stage = Stage()
    stage.check.check([HERE])
    message = stage.asked[0].message
    name = dns.message.from_wire(message).question[0].name.to_text()
    for other in (
        dns.message.make_query("www.example.com", "A").to_wire(),
        dns.message.make_query(f"x{name}", "MX").to_wire(),
        message[:20],
        b"",
        b"0000000000000000",
    ):
        assert stage.check.came_back(other) is None
    assert stage.check.came_back(message) == HERE


def test_a_server_that_goes_round_is_asked_no_more_until_the_host_uses_others() -> None:
    stage = Stage()
    stage.check.check([HERE])
    stage.check.looping.add(HERE)
    stage.check.check([HERE])
    assert len(stage.asked) == 1
    first = stage.asked[0].message
    stage.check.forget()
    assert stage.check.came_back(first) is None
    stage.check.check([HERE])
    assert len(stage.asked) == 2
    assert stage.asked[1].message != first


def test_a_silent_server_is_suspected_now_and_then() -> None:
    stage = Stage()
    stage.check.suspect(HERE)  # nobody uses it
    assert stage.asked == []
    stage.check.check([HERE])
    for _ in range(5):
        stage.check.suspect(HERE)
    assert len(stage.asked) == 1
    stage.now = 10 * SECOND
    for _ in range(5):
        stage.check.suspect(HERE)
    assert len(stage.asked) == 2


def test_who_reads_the_hosts_servers_late_is_found_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_check, "_AGAIN_AFTER_SECONDS", (0.001, 0.002, 0.003))

    async def work() -> None:
        stage = Stage()
        stage.check.watch([HERE])
        stage.check.watch([DOCKERS])  # in place of the ones before
        while len(stage.asked) < 5:  # noqa: ASYNC110  # timers of this loop
            await asyncio.sleep(0.001)
        assert [one.server.ip for one in stage.asked] == [HERE, *[DOCKERS] * 4]
        stage.check.watch([HERE])
        stage.check.stop()
        await asyncio.sleep(0.01)
        assert len(stage.asked) == 6

    asyncio.run(work())


def test_what_is_remembered_is_bounded() -> None:
    stage = Stage()
    for _ in range(200):
        stage.check.check([HERE])
    assert stage.check.came_back(stage.asked[0].message) is None
    assert stage.check.came_back(stage.asked[199].message) == HERE
