"""Looking names up: both families, one look-up for all who ask, and what is kept for how long. No sockets, no clock."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint, IPAddress
from gateway import resolver
from gateway.resolver import MOST_ADDRESSES, MOST_LOOK_UPS, MOST_REMEMBERED, Resolver
from gateway.system_names import SystemNames

NAME = "app.example"
V4, V6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
MARK = 7


class Site:
    """Name servers with a zone, a clock that stands still, and what the resolver says."""

    def __init__(self, tmp_path: Path) -> None:
        self.now = 0
        self.zone: dict[tuple[str, str], list[str] | str | Exception] = {}
        self.ttl = 60
        self.asked: Counter[tuple[str, str]] = Counter()
        self.over_tcp: list[bool] = []
        self.silent: set[str] = set()
        self.hold: asyncio.Event | None = None
        self.answers: list[tuple[str, tuple[IPAddress, ...] | None]] = []
        self.resolv_conf, self.hosts = tmp_path / "resolv.conf", tmp_path / "hosts"
        self.resolv_conf.write_text("nameserver 192.0.2.53\n")
        self.hosts.write_text("")
        self.resolver: Resolver

    def add(self, name: str, *addresses: str) -> None:
        for address in addresses:
            kind = "A" if ip_address(address).version == 4 else "AAAA"
            records = self.zone.setdefault((name, kind), [])
            assert isinstance(records, list)
            records.append(address)

    async def exchange(self, query: bytes, server: Endpoint, *, over_tcp: bool, mark: int | None) -> bytes:
        assert mark == MARK
        assert server.port == 53
        if str(server.ip) in self.silent:
            raise TimeoutError
        asked = dns.message.from_wire(query)
        (question,) = asked.question
        key = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        self.asked[key] += 1
        self.over_tcp.append(over_tcp)
        if self.hold is not None:
            await self.hold.wait()
        found = self.zone.get(key)
        if isinstance(found, Exception):
            raise found
        answer = dns.message.make_response(asked)
        if found == "truncated":
            if over_tcp:
                found = ["192.0.2.77"]
            else:
                answer.flags |= dns.flags.TC
        if isinstance(found, list):
            answer.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", key[1], *found))
        elif found == "alias":
            answer.answer += [
                dns.rrset.from_text(question.name, 5, "IN", "CNAME", "real.example."),
                dns.rrset.from_text("real.example.", 60, "IN", "A", "192.0.2.9"),
            ]
        elif found == "cycle":
            answer.answer.append(dns.rrset.from_text(question.name, 5, "IN", "CNAME", question.name.to_text()))
        elif found == "broken":
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif found == "garbage":
            return answer.to_wire()[:-2] + b"\xff" * 40
        elif found is None and not any(name == key[0] for name, _ in self.zone):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer.to_wire()

    def take(self, domain: str, addresses: tuple[IPAddress, ...] | None) -> None:
        self.answers.append((domain, addresses))


Script = Callable[[Site], Awaitable[None]]


@pytest.fixture(name="run")
def _run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], Site]:
    site = Site(tmp_path)
    monkeypatch.setattr(resolver, "exchange", site.exchange)

    def run(script: Script) -> Site:
        async def steps() -> None:
            running: set[asyncio.Task[None]] = set()

            def start(work: Coroutine[Any, Any, None]) -> None:
                running.add(asyncio.get_running_loop().create_task(work))

            system = SystemNames(site.resolv_conf, site.hosts)
            site.resolver = Resolver(site.take, start, mark=MARK, system=system, clock=lambda: site.now)
            async with asyncio.timeout(20):
                await script(site)
            for task in running:
                task.cancel()

        asyncio.run(steps())
        return site

    return run


async def look_up(site: Site, *domains: str) -> list[tuple[str, tuple[IPAddress, ...] | None]]:
    """Ask, and wait for as many answers."""
    before = len(site.answers)
    for domain in domains:
        site.resolver.resolve(domain)
    while len(site.answers) < before + len(domains):  # noqa: ASYNC110  # the resolver says nothing when it is done
        await asyncio.sleep(0)
    return site.answers[before:]


def test_both_families_are_joined_sorted_and_without_duplicates(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        site.add(NAME, "192.0.2.3", "192.0.2.1", "192.0.2.3", "2001:db8::2", "2001:db8::1")
        expected = tuple(map(ip_address, ("192.0.2.1", "192.0.2.3", "2001:db8::1", "2001:db8::2")))
        assert await look_up(site, NAME) == [(NAME, expected)]

    site = run(script)
    assert site.asked == {(NAME, "A"): 1, (NAME, "AAAA"): 1}


@pytest.mark.parametrize(
    "other",
    [None, [], "broken", "garbage", "cycle", ConnectionRefusedError(), OSError()],
    ids=["none", "empty", "broken", "garbage", "cycle", "refused", "unreachable"],
)
@pytest.mark.parametrize("kind", ["A", "AAAA"])
def test_one_family_is_enough(run: Callable[[Script], Site], kind: str, other: Any) -> None:
    async def script(site: Site) -> None:
        site.add(NAME, str(V4 if kind == "A" else V6))
        site.zone[NAME, "AAAA" if kind == "A" else "A"] = other
        if other == []:
            del site.zone[NAME, "AAAA" if kind == "A" else "A"]
        assert await look_up(site, NAME) == [(NAME, (V4 if kind == "A" else V6,))]

    run(script)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, "no_such_name"),
        ("broken", "servers_failed"),
        ("garbage", "servers_failed"),
        ("cycle", "servers_failed"),
        (ConnectionRefusedError(), "servers_failed"),
    ],
)
def test_only_both_failing_is_a_failure_with_a_reason(
    run: Callable[[Script], Site], caplog: pytest.LogCaptureFixture, found: Any, reason: str
) -> None:
    async def script(site: Site) -> None:
        if found is not None:
            site.zone |= {(NAME, "A"): found, (NAME, "AAAA"): found}
        assert await look_up(site, NAME) == [(NAME, None)]
        assert site.resolver.counters()[reason] == 1
        before = site.asked.total()
        site.zone.clear()
        site.add(NAME, str(V4))
        assert await look_up(site, NAME) == [(NAME, (V4,))]  # failures are not kept
        assert site.asked.total() == before + 2

    with caplog.at_level(logging.INFO, "gateway"):
        run(script)
    assert NAME not in caplog.text
    assert [record.levelname for record in caplog.records] == ([] if reason == "no_such_name" else ["WARNING"])


def test_a_name_without_addresses_is_a_failure(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        site.zone[NAME, "TXT"] = ["x"]
        assert await look_up(site, NAME) == [(NAME, None)]
        assert site.resolver.counters()["no_addresses"] == 1

    run(script)


def test_an_answer_that_was_cut_off_is_asked_for_over_tcp(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        site.zone[NAME, "A"] = "truncated"
        assert await look_up(site, NAME) == [(NAME, (ip_address("192.0.2.77"),))]

    site = run(script)
    assert sorted(site.over_tcp) == [False, False, True]


@pytest.mark.parametrize(("ttl", "kept_seconds"), [(0, 2), (10, 10), (86400, 30)])
def test_what_was_found_is_kept_as_long_as_it_says_within_bounds(
    run: Callable[[Script], Site], ttl: int, kept_seconds: int
) -> None:
    async def script(site: Site) -> None:
        site.add(NAME, str(V4), str(V6))
        site.ttl = ttl
        await look_up(site, NAME)
        site.now = kept_seconds * SECOND - 1
        assert await look_up(site, NAME) == [(NAME, (V4, V6))]
        assert site.asked.total() == 2
        site.now += 1
        await look_up(site, NAME)
        assert site.asked.total() == 4
        assert site.resolver.counters()["remembered"] == 1

    run(script)


def test_an_alias_lasts_as_long_as_its_shortest_part(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        site.zone[NAME, "A"] = "alias"
        assert await look_up(site, NAME) == [(NAME, (ip_address("192.0.2.9"),))]
        site.now = 5 * SECOND
        await look_up(site, NAME)

    assert run(script).asked[NAME, "A"] == 2


def test_a_family_that_could_not_be_asked_is_asked_again_soon(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        site.add(NAME, str(V4))
        site.zone[NAME, "AAAA"] = "broken"
        await look_up(site, NAME)
        site.zone[NAME, "AAAA"] = [str(V6)]
        site.now = 2 * SECOND
        assert await look_up(site, NAME) == [(NAME, (V4, V6))]

    run(script)


def test_look_ups_of_one_name_are_one(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        site.add(NAME, str(V4))
        site.hold = asyncio.Event()
        for _ in range(5):
            site.resolver.resolve(NAME)
        await asyncio.sleep(0)
        site.hold.set()
        await look_up(site, "other.example")
        assert site.answers.count((NAME, (V4,))) == 1
        assert site.resolver.counters()["merged"] == 4

    assert run(script).asked[NAME, "A"] == 1


def test_so_many_look_ups_run_and_the_next_one_fails_at_once(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        site.hold = asyncio.Event()
        for number in range(MOST_LOOK_UPS):
            site.resolver.resolve(f"{number}.example")
        assert await look_up(site, NAME) == [(NAME, None)]
        assert site.resolver.counters()["too_many"] == 1
        site.hold.set()

    run(script)


def test_memory_is_bounded_and_the_oldest_goes(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        names = [f"{number}.example" for number in range(MOST_REMEMBERED + 1)]
        for name in names:
            site.add(name, str(V4))
            await look_up(site, name)
        before = site.asked.total()
        await look_up(site, names[-1], names[1])
        assert site.asked.total() == before
        await look_up(site, names[0])
        assert site.asked.total() == before + 2

    run(script)


def test_addresses_of_a_name_are_bounded(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        site.add(NAME, *(f"192.0.2.{number}" for number in range(256)), *(f"2001:db8::{n:x}" for n in range(256)))
        ((_, addresses),) = await look_up(site, NAME)
        assert addresses is not None
        assert Counter(address.version for address in addresses) == {4: MOST_ADDRESSES, 6: MOST_ADDRESSES}

    run(script)


def test_the_hosts_file_comes_first_and_is_all_there_is(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        site.add(NAME, "192.0.2.99", "2001:db8::99")
        site.hosts.write_text(f"{V4} APP.example\n")
        assert await look_up(site, NAME, "App.Example.") == [(NAME, (V4,)), ("App.Example.", (V4,))]

    assert run(script).asked.total() == 0


def test_a_changed_configuration_ends_what_is_remembered(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        site.add(NAME, str(V4))
        await look_up(site, NAME)
        site.resolv_conf.write_text("# elsewhere\nnameserver 192.0.2.53\n")
        await look_up(site, NAME)
        assert site.asked.total() == 4
        site.resolver.forget()
        await look_up(site, NAME)
        assert site.asked.total() == 6
        site.resolv_conf.write_text("# nobody\n")
        assert await look_up(site, NAME) == [(NAME, None)]
        assert site.resolver.counters()["no_nameserver"] == 1

    run(script)


def test_what_was_asked_of_old_servers_is_not_remembered(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        site.add(NAME, str(V4))
        site.add("other.example", str(V4))
        site.hold = asyncio.Event()
        site.resolver.resolve(NAME)
        await asyncio.sleep(0)
        site.resolv_conf.write_text("# elsewhere\nnameserver 192.0.2.53\n")
        site.resolver.resolve("other.example")
        site.hold.set()
        while len(site.answers) < 2:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0)
        site.answers.clear()
        await look_up(site, NAME)

    assert run(script).asked[NAME, "A"] == 2


@pytest.mark.parametrize("domain", ["a..b", "x" * 64, ".".join(["long" * 15] * 5), "\\300.example", "\udce4.example"])
def test_what_is_no_name_is_a_failure(run: Callable[[Script], Site], domain: str) -> None:
    async def script(site: Site) -> None:
        assert await look_up(site, domain) == [(domain, None)]
        assert site.resolver.counters()["not_a_name"] == 1

    run(script)


def test_a_silent_server_is_followed_by_the_next(run: Callable[[Script], Site]) -> None:
    async def script(site: Site) -> None:
        site.add(NAME, str(V4), str(V6))
        site.resolv_conf.write_text("nameserver 192.0.2.52\nnameserver 192.0.2.53\n")
        site.silent = {"192.0.2.52"}
        assert await look_up(site, NAME) == [(NAME, (V4, V6))]

    run(script)


def test_servers_that_say_nothing_are_given_up(run: Callable[[Script], Site], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "LOOK_UP_SECONDS", 0)

    async def script(site: Site) -> None:
        site.hold = asyncio.Event()
        assert await look_up(site, NAME) == [(NAME, None)]
        assert site.resolver.counters()["timed_out"] == 1

    run(script)
