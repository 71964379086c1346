"""DNS over TCP over real sockets: programs at 127.0.0.1, which stands for the sentinel that a peer seems to have."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import pytest

from client.dns_io import tcp_listener
from client.dns_io.tcp_listener import CONNECTIONS_PER_SENTINEL, TcpListener
from connectivity.endpoint import IPAddress

HERE = ip_address("127.0.0.1")
SENTINELS = (HERE, ip_address("::1"))


class Program:
    """One connection of a program."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def ask(self, *messages: bytes) -> None:
        self.writer.write(b"".join(len(message).to_bytes(2) + message for message in messages))

    async def answer(self) -> bytes:
        return await self._reader.readexactly(int.from_bytes(await self._reader.readexactly(2)))

    async def ended(self) -> bool:
        """Waits for the end of the connection."""
        try:
            return await self._reader.read(1) == b""
        except ConnectionResetError:
            return True


class Stage:
    """A listener and the queries that came out of it."""

    def __init__(self) -> None:
        self.queries: asyncio.Queue[tuple[int, IPAddress, bytes]] = asyncio.Queue()
        self.ports: dict[int, int] = {}
        self.defects: list[Exception] = []
        self.programs: list[Program] = []
        self.listener = TcpListener(
            device="lo",
            query=lambda *query: self.queries.put_nowait(query),
            serve=self._serve,
            fail=self.defects.append,
        )

    def _serve(self, ports: dict[int, int]) -> None:
        self.ports = ports

    async def connect(self, host: str = "127.0.0.1", port: int | None = None) -> Program:
        version = ip_address(host).version
        program = Program(*await asyncio.open_connection(host, port or self.ports[version]))
        self.programs.append(program)
        return program


def serve(work: Callable[[Stage], Awaitable[None]]) -> Stage:
    async def run() -> Stage:
        stage = Stage()
        stage.listener.configure((HERE, ip_address("::1")), SENTINELS)
        try:
            async with asyncio.timeout(20):
                await work(stage)
        finally:
            await stage.listener.close()
            for program in stage.programs:
                program.writer.close()
        assert stage.defects == []
        return stage

    return asyncio.run(run())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_several_queries_of_one_connection_are_answered_as_the_answers_come(host: str) -> None:
    async def work(stage: Stage) -> None:
        program = await stage.connect(host)
        program.ask(b"first query..", b"second query.", b"x" * 65535)
        (one, sentinel, message), (two, _, _), (three, _, long) = [await stage.queries.get() for _ in range(3)]
        assert (sentinel, message, len(long)) == (ip_address(host), b"first query..", 65535)
        assert len({one, two, three}) == 3
        stage.listener.reply(two, b"second answer")
        stage.listener.reply(one, None)  # it was none
        stage.listener.reply(three, b"y" * 65535)
        assert await program.answer() == b"second answer"
        assert await program.answer() == b"y" * 65535
        program.ask(b"one more")
        stage.listener.reply((await stage.queries.get())[0], b"and its answer")
        assert await program.answer() == b"and its answer"

    serve(work)


def test_a_message_that_comes_in_pieces_is_one() -> None:
    async def work(stage: Stage) -> None:
        program = await stage.connect()
        for byte in b"\x00\x05query":
            program.writer.write(bytes([byte]))
            await program.writer.drain()
            await asyncio.sleep(0)
        assert (await stage.queries.get())[2] == b"query"

    serve(work)


def test_who_has_said_all_is_still_answered_and_then_let_go() -> None:
    async def work(stage: Stage) -> None:
        program = await stage.connect()
        program.ask(b"query")
        program.writer.write_eof()
        query_id = (await stage.queries.get())[0]
        await asyncio.sleep(0)
        stage.listener.reply(query_id, b"answer")
        assert await program.answer() == b"answer"
        assert await program.ended()

    serve(work)


def test_who_comes_from_elsewhere_is_shut_out() -> None:
    async def work(stage: Stage) -> None:
        stage.listener.configure((HERE, ip_address("::1")), (ip_address("100.100.111.1"),))
        assert await (await stage.connect()).ended()

    assert serve(work).listener.counts["refused"] == 1


def test_connections_of_a_sentinel_that_is_gone_end_and_the_ports_stay() -> None:
    async def work(stage: Stage) -> None:
        program = await stage.connect()
        program.ask(b"query")
        query_id = (await stage.queries.get())[0]
        ports = stage.ports
        stage.listener.configure((HERE, ip_address("::1")), (ip_address("::1"),))
        assert await program.ended()
        stage.listener.reply(query_id, b"too late")
        assert stage.ports is ports

    serve(work)


def test_other_addresses_of_the_device_get_listeners_of_their_own() -> None:
    async def work(stage: Stage) -> None:
        ports = stage.ports
        stage.listener.configure((HERE, ip_address("192.0.2.1")), SENTINELS)
        assert set(stage.ports) == {4}  # the other one is not this host's
        assert stage.ports != ports
        with pytest.raises(OSError):
            await stage.connect("::1", ports[6])
        program = await stage.connect()
        program.ask(b"query")
        assert (await stage.queries.get())[2] == b"query"

    serve(work)


def test_of_too_many_connections_the_longest_idle_makes_room_and_none_that_waits_for_an_answer() -> None:
    async def work(stage: Stage) -> None:
        programs = []
        for number in range(CONNECTIONS_PER_SENTINEL):
            programs.append(await stage.connect())
            programs[-1].ask(b"query %d" % number)
        asked = {message: query_id for query_id, _, message in [await stage.queries.get() for _ in programs]}
        assert await (await stage.connect()).ended()  # all others wait for their answers
        for number in (3, 5):
            stage.listener.reply(asked[b"query %d" % number], b"answer")
            assert await programs[number].answer() == b"answer"
        newcomer = await stage.connect()
        assert await programs[3].ended()
        newcomer.ask(b"query")
        assert (await stage.queries.get())[2] == b"query"
        other = await stage.connect("::1")  # who asks another sentinel has room of his own
        other.ask(b"query")
        assert (await stage.queries.get())[1] == ip_address("::1")
        stage.listener.reply(asked[b"query 0"], b"answer")
        assert await programs[0].answer() == b"answer"

    assert serve(work).listener.counts["refused"] == 1


def test_queries_of_one_connection_at_a_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_listener, "QUERIES_PER_CONNECTION", 2)

    async def work(stage: Stage) -> None:
        program = await stage.connect()
        program.ask(b"one", b"two", b"three")
        first, second = [await stage.queries.get() for _ in range(2)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert stage.queries.empty()
        stage.listener.reply(second[0], b"answer")
        assert (await stage.queries.get())[2] == b"three"
        assert first[2] == b"one"

    serve(work)


def test_who_says_nothing_and_who_stops_in_the_middle_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_listener, "IDLE_SECONDS", 0.02)

    async def work(stage: Stage) -> None:
        silent, halfway = await stage.connect(), await stage.connect()
        halfway.writer.write(b"\x00\x09half")
        assert await silent.ended()
        assert await halfway.ended()
        waiting = await stage.connect()
        waiting.ask(b"query")
        query_id = (await stage.queries.get())[0]
        await asyncio.sleep(0.05)  # who waits for an answer is not idle
        stage.listener.reply(query_id, b"answer")
        assert await waiting.answer() == b"answer"

    assert serve(work).listener.counts["timed_out"] >= 2


def test_a_query_that_is_never_answered_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_listener, "IDLE_SECONDS", 0.02)
    monkeypatch.setattr(tcp_listener, "ANSWER_SECONDS", 0.02)

    async def work(stage: Stage) -> None:
        program = await stage.connect()
        program.ask(b"query")
        query_id = (await stage.queries.get())[0]
        assert await program.ended()
        stage.listener.reply(query_id, b"too late")

    serve(work)


def test_who_does_not_read_his_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_listener, "_UNREAD_BYTES", 100_000)

    async def work(stage: Stage) -> None:
        program = await stage.connect()
        for _ in range(200):
            program.ask(b"query")
            try:
                async with asyncio.timeout(1):
                    query_id = (await stage.queries.get())[0]
            except TimeoutError:
                break
            stage.listener.reply(query_id, b"x" * 65535)
        else:
            pytest.fail("the connection went on")

    serve(work)
