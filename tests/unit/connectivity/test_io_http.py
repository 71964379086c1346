"""One server's limits: silent, slow and greedy peers keep nobody out; whoever is admitted stays."""

import asyncio
import logging

import pytest
from aiohttp import web

from connectivity.io.forwarded import peer_of
from connectivity.io.http import MOST_REQUEST_BYTES, place_of
from connectivity.io.http_limits import Limits
from connectivity.networks import read_networks
from tests.unit.connectivity.http_peer import PATIENCE, TOKEN, Place, assert_discreet, pass_time, run, serving

OK = b"HTTP/1.1 200 OK"
PAST = 10.5  # seconds: more than a request or an answer has


async def crowd(place: Place, count: int, source: str = "127.0.0.1") -> None:
    for _ in range(count):
        await place.peer(source)


def test_those_who_say_nothing_keep_nobody_out_of_their_own_address() -> None:
    async def scenario() -> None:
        async with serving(Limits(connections=8, per_address=4)) as place:
            await crowd(place, 20)
            assert (await (await place.peer()).ask()).startswith(OK)
            assert place.server.counters.crowded_out >= 16

    run(scenario)


def test_one_address_takes_no_place_of_others() -> None:
    async def scenario() -> None:
        async with serving(Limits(connections=8, per_address=4)) as place:
            quiet = [await place.peer(f"127.0.0.{host}") for host in (7, 8, 9)]
            await crowd(place, 30, "127.0.0.2")
            assert (await (await place.peer()).ask()).startswith(OK)
            assert (await quiet[0].ask()).startswith(OK), "another address has its place still"

    run(scenario)


def test_ipv4_addresses_at_an_ipv6_listener_are_not_one() -> None:
    async def scenario() -> None:
        async with serving(Limits(connections=8, per_address=1), "[::]:0") as place:
            first, second = await place.peer("127.0.0.5"), await place.peer("127.0.0.6")
            assert (await second.ask()).startswith(OK)
            assert (await first.ask()).startswith(OK)

    run(scenario)


def test_an_ipv6_network_is_one_address() -> None:
    one, other, elsewhere, mapped = (
        place_of(peer_of((host, 1, 0, 0)))
        for host in ("2001:db8::1", "2001:db8::2:3", "2001:db8:0:1::1", "::ffff:192.0.2.1")
    )
    assert one == other != elsewhere
    assert mapped == place_of(peer_of(("192.0.2.1", 1)))
    assert place_of(peer_of(("fe80::1%eth0", 1, 0, 2))) == place_of(peer_of(("fe80::2", 1, 0, 2)))


def test_many_silent_addresses_keep_nobody_out() -> None:
    async def scenario() -> None:
        async with serving(Limits(connections=8, per_address=4)) as place:
            first = await place.peer("127.0.1.1")
            for host in range(2, 30):
                await place.peer(f"127.0.1.{host}")
            assert (await (await place.peer()).ask()).startswith(OK)
            assert await first.rest() == b"", "who has waited longest goes"

    run(scenario)


def test_who_has_asked_stays_when_silent_ones_crowd() -> None:
    async def scenario() -> None:
        asked, answer = asyncio.Event(), asyncio.Event()

        async def slow(_: web.Request) -> web.Response:
            asked.set()
            await answer.wait()
            return web.Response(text="late\n")

        async with serving(Limits(connections=4, per_address=4), slow=slow) as place:
            patient = await place.peer()
            waiting = asyncio.ensure_future(patient.ask("/slow"))
            await asked.wait()
            await crowd(place, 20)
            await (await place.peer()).ask()
            answer.set()
            assert (await waiting).endswith(b"late\n")

    run(scenario)


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: "])
def test_a_request_that_does_not_come_ends(begun: bytes) -> None:
    async def scenario() -> None:
        async with serving(Limits(4, 4)) as place:
            peer = await place.peer()
            peer.send(begun)
            await place.settle()
            pass_time(PAST)
            assert await peer.rest() == b""
            assert place.server.counters.timed_out == 1

    run(scenario)


def test_a_body_that_does_not_come_ends() -> None:
    async def scenario() -> None:
        asked = asyncio.Event()

        async def read(request: web.Request) -> web.Response:
            asked.set()
            return web.Response(text=await request.text())

        async with serving(Limits(4, 4), read=read) as place:
            peer = await place.peer()
            peer.send(b"GET /read HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12")
            await asked.wait()
            pass_time(PAST)
            assert await peer.rest() == b""
            assert place.server.counters.timed_out == 1

    run(scenario)


def test_an_answer_that_is_not_taken_ends() -> None:
    async def scenario() -> None:
        asked, ended = asyncio.Event(), asyncio.Event()

        async def endless(request: web.Request) -> web.StreamResponse:
            asked.set()
            response = web.StreamResponse()
            await response.prepare(request)
            try:
                while True:
                    await response.write(bytes(1 << 20))
            finally:
                ended.set()

        async with serving(Limits(4, 4), endless=endless) as place:
            peer = await place.peer()
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a StreamWriter's is a whole Transport
            peer.send(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
            await asked.wait()
            pass_time(PAST)
            async with asyncio.timeout(PATIENCE):
                await ended.wait()
            assert place.server.counters.timed_out == 1

    run(scenario)


def test_after_an_answer_the_connection_waits_like_a_new_one() -> None:
    async def scenario() -> None:
        async with serving(Limits(4, 4)) as place:
            kept = await place.peer()
            for _ in range(MOST_REQUEST_BYTES // 30):  # more than one request may have
                kept.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await kept.reader.readuntil(b"ok\n")).startswith(OK)
            await crowd(place, 4)
            assert await kept.rest() == b"", "it has been silent for longest"

    run(scenario)


def test_who_is_silent_after_an_answer_ends() -> None:
    async def scenario() -> None:
        async with serving(Limits(4, 4)) as place:
            kept = await place.peer()
            kept.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await kept.reader.readuntil(b"ok\n")).startswith(OK)
            await place.settle()
            pass_time(PAST)
            assert await kept.rest() == b""
            assert place.server.counters.timed_out == 1

    run(scenario)


def test_a_request_has_a_greatest_length(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serving(Limits(4, 4)) as place:
            peer = await place.peer()
            peer.send(b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * (MOST_REQUEST_BYTES // 6))
            assert await peer.rest() == b""
            assert place.server.counters.malformed == 1

    run(scenario)
    assert_discreet(caplog)


class Door:
    """A handler that admits whoever comes, and keeps the connection until it is told to let go."""

    def __init__(self) -> None:
        self.place: Place | None = None
        self.requests: list[web.Request] = []
        self.inside = asyncio.Event()
        self.let_go = asyncio.Event()

    async def enter(self, request: web.Request) -> web.StreamResponse:
        assert self.place is not None
        if not self.place.server.admit(request):
            return web.Response(status=503)
        self.requests.append(request)
        self.inside.set()
        await self.let_go.wait()
        return web.Response(text="bye\n")


def test_who_is_admitted_has_neither_time_nor_place_limited() -> None:
    async def scenario() -> None:
        door = Door()
        async with serving(Limits(4, 4, admitted=1), enter=door.enter) as place:
            door.place = place
            guest = asyncio.ensure_future((await place.peer()).ask("/enter"))
            await door.inside.wait()
            await crowd(place, 20)
            silent = await place.peer()
            await place.settle()
            pass_time(PAST)
            assert await silent.rest() == b"", "time has passed for the others"
            assert b"503" in await (await place.peer()).ask("/enter"), "one is the most"
            door.let_go.set()
            assert (await guest).endswith(b"bye\n")
            door.let_go.clear()
            door.inside.clear()
            again = asyncio.ensure_future((await place.peer()).ask("/enter"))
            await door.inside.wait()
            door.let_go.set()
            assert (await again).endswith(b"bye\n"), "the place is free again"

    run(scenario)


def test_who_has_gone_takes_no_place_of_the_admitted() -> None:
    async def scenario() -> None:
        outcomes: list[bool] = []

        async def enter(request: web.Request) -> web.StreamResponse:
            if not outcomes:
                assert request.protocol is not None
                request.protocol.connection_lost(None)
            outcomes.append(place.server.admit(request))
            return web.Response()

        async with serving(Limits(4, 4, admitted=1), enter=enter) as place:
            gone = await place.peer()
            await gone.ask("/enter")
            assert (await (await place.peer()).ask("/enter")).startswith(OK)
            assert outcomes == [False, True]

    run(scenario)


def test_who_is_dismissed_has_little_time() -> None:
    async def scenario() -> None:
        door = Door()
        async with serving(Limits(4, 4, admitted=1), enter=door.enter) as place:
            door.place = place
            guest = asyncio.ensure_future((await place.peer()).ask("/enter"))
            await door.inside.wait()
            place.server.dismiss(door.requests[0])
            pass_time(PAST)
            assert await guest == b""
            door.let_go.set()

    run(scenario)


def test_the_first_of_many_is_told_with_the_address(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with serving(Limits(4, 4)) as place:
            await crowd(place, 5, "127.0.0.3")
            await (await place.peer()).ask()

    run(scenario)
    first = next(record for record in caplog.records if record.message.startswith("Too many connections"))
    assert (first.levelno, first.__dict__["fields"]["from"]) == (logging.WARNING, "127.0.0.3")


def test_what_a_handler_raises_is_told_by_kind_and_place(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)

    async def scenario() -> None:
        async def faulty(request: web.Request) -> web.Response:
            async with asyncio.TaskGroup():
                raise ValueError(request.path_qs)

        async with serving(Limits(4, 4), faulty=faulty) as place:
            answer = await (await place.peer()).ask(f"/faulty?token={TOKEN}")
            assert answer.endswith(b"\r\n\r\ninternal server error\n")
            assert place.server.counters.failed == 1

    run(scenario)
    assert_discreet(caplog)
    (record,) = [each for each in caplog.records if each.message == "A request failed"]
    fields = record.__dict__["fields"]
    assert fields["error"] == "ValueError"
    assert fields["at"].startswith("test_io_http.py:")


def test_an_error_is_one_plain_line() -> None:
    async def scenario() -> None:
        async with serving(Limits(4, 4)) as place:
            assert (await (await place.peer()).ask("/nothing")).endswith(b"\r\n\r\nnot found\n")
            peer = await place.peer()
            peer.send(b"DELETE /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await peer.rest()
            assert answer.endswith(b"\r\n\r\nmethod not allowed\n")
            assert b"Allow: GET,HEAD" in answer

    run(scenario)


def test_a_trusted_proxy_has_all_places_and_each_whom_it_asks_for_has_his_own() -> None:
    async def scenario() -> None:
        answer, asked = asyncio.Event(), asyncio.Semaphore(0)

        async def slow(_: web.Request) -> web.Response:
            asked.release()
            await answer.wait()
            return web.Response(text="done\n")

        async def ask(client: str, source: str = "127.0.0.1") -> "asyncio.Task[bytes]":
            peer = await place.peer(source)
            answered = asyncio.create_task(peer.ask("/slow", f"X-Forwarded-For: {client}\r\n"))
            async with asyncio.timeout(PATIENCE):
                await asked.acquire()
            return answered

        async with serving(Limits(connections=8, per_address=2), slow=slow) as place:
            place.server.trusted_proxies = read_networks(["127.0.0.1"])
            others = [await ask(f"192.0.2.{number}") for number in (1, 2, 3, 4)]
            crowd = [await ask("192.0.2.9") for _ in range(3)]
            assert await crowd[0] == b"", "of one client so many as of one address, whoever the proxy is"
            mapped = await ask("198.51.100.1, ::ffff:192.0.2.9")
            assert await crowd[1] == b""
            strangers = [await ask(f"192.0.2.{number}", "127.0.0.2") for number in (10, 11, 12)]
            assert await strangers[0] == b"", "nobody else is believed"
            assert place.server.counters.crowded_out == 3
            answer.set()
            for task in (*others, crowd[2], mapped, *strangers[1:]):
                assert (await task).startswith(OK)

    run(scenario)


def test_a_connection_that_a_proxy_keeps_counts_for_whom_it_asks_next() -> None:
    async def scenario() -> None:
        async with serving(Limits(connections=8, per_address=1)) as place:
            place.server.trusted_proxies = read_networks(["127.0.0.1"])
            kept = await place.peer()
            for client in ("192.0.2.1", "192.0.2.2"):
                kept.send(f"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\r\n".encode())
                async with asyncio.timeout(PATIENCE):
                    await kept.reader.readuntil(b"ok\n")
            other = await place.peer()
            assert (await other.ask("/healthz", "X-Forwarded-For: 192.0.2.2\r\n")).startswith(OK)
            assert not kept.is_cut_off()

    run(scenario)
