"""What a gateway has beside its tunnel, as the service uses it: real sockets on loopback, no other host."""

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dns.message
import dns.rcode
import pytest

from connectivity.clock import Instant
from connectivity.endpoint import IPAddress
from connectivity.io.accepting import open_listener
from connectivity.io.extension import ExtensionHost
from connectivity.portal.values import Interface
from connectivity.tunnel import ConfigureTun
from gateway import site_dns
from gateway.actions import ResolveDomain
from gateway.extension import GatewayExtension
from gateway.system_names import SystemNames
from tests.documented import ROOT

HERE = Interface(IPv4Address("127.0.0.1"), IPv6Address("::1"))
V4 = IPv4Address("192.0.2.1")
CLIENTS = ("127.0.0.1", "::1")


class Core:
    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[str, tuple[IPAddress, ...] | None]] = asyncio.Queue()

    def handle_resolution(self, domain: str, addresses: tuple[IPAddress, ...] | None, now: Instant) -> None:
        assert now > 0
        self.heard.put_nowait((domain, addresses))

    def may_ask(self, address: IPAddress, name: str) -> bool:
        return str(address) in CLIENTS and name.endswith("internal")


class Service:
    """The host of an extension."""

    def __init__(self, tmp_path: Path) -> None:
        (tmp_path / "resolv.conf").write_text("# nobody\n")
        (tmp_path / "hosts").write_text(f"{V4} app.internal\n")
        self.core = Core()
        self.failures: list[Exception] = []
        host = ExtensionHost(
            cast(Any, self.core), lambda function, *arguments: function(*arguments), self.failures.append, 7, "tun-test"
        )
        names = SystemNames(tmp_path / "resolv.conf", tmp_path / "hosts")
        self.told_host: list[str] = []
        self.ready = asyncio.Event()
        masquerade = SimpleNamespace(
            apply=lambda: self.told_host.append("apply"), remove=lambda: self.told_host.append("remove")
        )
        self.extension = GatewayExtension(host, self.core, cast(Any, masquerade), self.ready, names)

    async def run(self, script: Callable[["Service"], Any]) -> None:
        async with asyncio.timeout(20):
            await self.extension.start()
            try:
                await script(self)
            finally:
                await self.extension.close()
        assert self.failures == []


@pytest.fixture(name="port")
def _port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port for the site's DNS, whose clients are on loopback here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    monkeypatch.setattr(site_dns, "SITE_DNS_PORT", port)
    monkeypatch.setattr(site_dns, "PEERS_IPV4", ip_network("127.0.0.0/8"))
    monkeypatch.setattr(site_dns, "PEERS_IPV6", ip_network("::1/128"))
    monkeypatch.setattr(site_dns, "BIND_AGAIN_SECONDS", (0.0,) * 3)
    return port


async def ask(address: str, port: int, kind: str = "SRV") -> dns.rcode.Rcode:
    """What the server answers by UDP."""
    query = dns.message.make_query("_sip._tcp.app.internal.", kind)
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.setblocking(False)
        own.connect((address, port))
        own.send(query.to_wire())
        answer = dns.message.from_wire(await asyncio.get_running_loop().sock_recv(own, 65535))
    assert query.is_response(answer)
    return answer.rcode()


async def ask_tcp(address: str, port: int) -> dns.rcode.Rcode:
    """What the server answers over TCP."""
    reader, writer = await asyncio.open_connection(address, port)
    query = dns.message.make_query("app.internal.", "TXT").to_wire()
    writer.write(len(query).to_bytes(2, "big") + query)
    length = int.from_bytes(await reader.readexactly(2), "big")
    answer = dns.message.from_wire(await reader.readexactly(length))
    writer.close()
    await writer.wait_closed()
    return answer.rcode()


async def bound(service: Service) -> None:
    """The sockets that can be had are there."""
    while len(service.extension._tasks):  # noqa: ASYNC110  # nobody says when
        await asyncio.sleep(0)


def test_a_name_of_the_core_is_looked_up_and_others_actions_are_not_ours(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        assert service.extension.act(ResolveDomain("app.internal"))
        assert service.extension.act(ResolveDomain("nobody.internal"))
        assert not service.extension.act("something else")
        heard = {await service.core.heard.get(), await service.core.heard.get()}
        assert heard == {("app.internal", (V4,)), ("nobody.internal", None)}
        assert service.extension.act(ResolveDomain("app.internal"))  # what is there now
        assert await service.core.heard.get() == ("app.internal", (V4,))
        await service.extension.reset()
        counted = service.extension.counters()["resolver"]
        assert (counted["resolved"], counted["remembered"], counted["no_nameserver"]) == (1, 1, 1)

    asyncio.run(Service(tmp_path).run(script))


def test_a_gateway_starts_without_what_speaks_dns() -> None:
    """Its import would be a good part of the time that a gateway takes to be there again."""
    code = "import sys, gateway.command; print([name for name in sys.modules if name.partition('.')[0] == 'dns'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_site_is_served_at_both_addresses_over_both_transports(tmp_path: Path, port: int) -> None:
    async def script(service: Service) -> None:
        await service.extension.configured(ConfigureTun(HERE, ()))
        await service.extension.configured(ConfigureTun(HERE, ()))  # the same again
        await bound(service)
        for address in ("127.0.0.1", "::1"):
            assert await ask(address, port) == dns.rcode.SERVFAIL  # there are no name servers
            assert await ask(address, port, "A") == dns.rcode.REFUSED
            assert await ask_tcp(address, port) == dns.rcode.SERVFAIL
        counted = service.extension.counters()["site_dns"]
        assert (counted["queries_udp"], counted["queries_tcp"], counted["failed"]) == (4, 2, 4)

    asyncio.run(Service(tmp_path).run(script))


def test_it_is_ready_when_the_host_forwards_and_takes_that_back(tmp_path: Path) -> None:
    async def script(service: Service) -> None:
        assert not service.ready.is_set()
        await service.extension.configured(ConfigureTun(HERE, ()))
        await service.ready.wait()
        await service.extension.configured(ConfigureTun(HERE, ()))
        assert service.told_host == ["apply"]

    service = Service(tmp_path)
    asyncio.run(service.run(script))
    assert service.told_host == ["apply", "remove"]


def test_a_family_that_cannot_be_bound_costs_the_other_nothing_and_is_tried_again(
    tmp_path: Path, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(service: Service) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", port))
            with caplog.at_level(logging.WARNING, "gateway"):
                await service.extension.configured(ConfigureTun(HERE, ()))
                await bound(service)
            (record,) = caplog.records
            assert record.getMessage() == "No DNS for the site in this family"
            assert cast(Any, record).fields["ipv"] == 4
            assert await ask("::1", port) == dns.rcode.SERVFAIL
        await service.extension.configured(ConfigureTun(HERE, ()))
        await bound(service)
        assert await ask("127.0.0.1", port) == dns.rcode.SERVFAIL

    asyncio.run(Service(tmp_path).run(script))


def test_an_address_that_comes_late_is_tried_again(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[str] = []

    def late(endpoint: Any) -> socket.socket:
        attempts.append(str(endpoint.ip))
        if len(attempts) < 4:
            raise OSError(99, "Cannot assign requested address")
        return open_listener(endpoint)

    monkeypatch.setattr(site_dns, "open_listener", late)

    async def script(service: Service) -> None:
        service.extension._made().site.serve(HERE.ipv4)
        await bound(service)
        assert attempts == ["127.0.0.1"] * 4
        assert await ask("127.0.0.1", port) == dns.rcode.SERVFAIL

    asyncio.run(Service(tmp_path).run(script))


def test_other_addresses_take_the_place_of_the_old_ones(tmp_path: Path, port: int) -> None:
    async def script(service: Service) -> None:
        await service.extension.configured(ConfigureTun(HERE, ()))
        await bound(service)
        await service.extension.configured(ConfigureTun(Interface(IPv4Address("127.0.0.2"), HERE.ipv6), ()))
        await bound(service)
        assert await ask("127.0.0.2", port) == dns.rcode.SERVFAIL
        with pytest.raises(ConnectionRefusedError):
            await ask("127.0.0.1", port)
        await service.extension.close()
        for address in ("127.0.0.2", "::1"):
            with pytest.raises(ConnectionRefusedError):
                await ask(address, port)

    asyncio.run(Service(tmp_path).run(script))
