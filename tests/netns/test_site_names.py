"""Names at a gateway with real name servers and dig: look-ups for the core, and the DNS server of the site.

[gateway: tun-pio 100.64.0.1, fd00:2021:1111::1]──veth──[198.51.100.2, 2001:db8::2: dnsmasq, unbound]

The way to the name servers' networks leads into the tunnel, so that only marked sockets reach them. A client is an
address of the tunnel's range on the gateway's own loopback device.
"""

import asyncio
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest

from connectivity.clock import Instant
from connectivity.endpoint import IPAddress
from connectivity.io import host
from connectivity.io.extension import ExtensionHost
from connectivity.io.tun import Tun
from connectivity.io.udp_options import SOCKET_MARK
from connectivity.portal.values import Interface
from connectivity.tunnel import PEERS_IPV4, PEERS_IPV6, ConfigureTun
from gateway import resolver
from gateway.actions import ResolveDomain
from gateway.extension import GatewayExtension
from gateway.site_dns import LONGEST_UDP_ANSWER
from gateway.system_names import SystemNames
from tests.netns import site_servers
from tests.netns.plain_pair import entered, ip, namespaces
from tests.netns.site_servers import ADDRESSES, LONG_TEXTS, MANY, SRV, TEXT

pytestmark = pytest.mark.root
DEVICE = "tun-pio"
OWN = Interface(IPv4Address("100.64.0.1"), IPv6Address("fd00:2021:1111::1"))
CLIENTS = ("100.64.0.2", "fd00:2021:1111::2")
V4_SERVER, V6_SERVER = "198.51.100.2", "2001:db8::2"
NOBODY = "198.51.100.77"
UNBOUND = shutil.which("unbound") is not None
EXPECTED = tuple(map(ip_address, ADDRESSES))


class Core:
    """Keeps what was found."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[str, tuple[IPAddress, ...] | None]] = asyncio.Queue()

    def handle_resolution(self, domain: str, addresses: tuple[IPAddress, ...] | None, now: Instant) -> None:
        del now
        self.heard.put_nowait((domain, addresses))

    def may_ask(self, address: IPAddress, name: str) -> bool:
        return str(address) in CLIENTS and name.endswith("internal")


class Gateway:
    """The extension of a gateway on a host with these name servers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.core = Core()
        self.failures: list[Exception] = []
        call: Callable[..., None] = lambda function, *arguments: function(*arguments)  # noqa: E731
        given = ExtensionHost(cast(Any, self.core), call, self.failures.append, SOCKET_MARK, DEVICE)
        names = SystemNames(directory / "resolv.conf", directory / "hosts")
        self.extension = GatewayExtension(given, self.core, cast(Any, Mock()), asyncio.Event(), names)
        self.use()

    def use(self, *servers: str) -> None:
        """Another configuration, by another file under the same name."""
        fresh = self.directory / "resolv.conf.new"
        fresh.write_text("options timeout:1\n" + "".join(f"nameserver {server}\n" for server in servers))
        fresh.rename(self.directory / "resolv.conf")
        (self.directory / "hosts").touch()

    async def look_up(self, domain: str) -> tuple[IPAddress, ...] | None:
        assert self.extension.act(ResolveDomain(domain))
        heard, addresses = await self.core.heard.get()
        assert heard == domain
        return addresses

    async def dig(self, *arguments: str, family: int = 4) -> list[str]:
        """What dig prints of an answer, as a client that asks the site's DNS server."""
        server, client = (OWN.ipv4, CLIENTS[0]) if family == 4 else (OWN.ipv6, CLIENTS[1])
        command = ["dig", f"@{server}", "-p", "53535", "-b", client, "+tries=1", "+time=20", *arguments]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        printed, _ = await process.communicate()
        assert process.returncode == 0, printed.decode()
        return printed.decode().splitlines()


Script = Callable[[Gateway], Awaitable[None]]


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway's namespace with both name servers beyond its wire."""
    with namespaces() as (gateway, servers), site_servers.dnsmasq(servers, V4_SERVER), ExitStack() as stack:
        if UNBOUND:
            stack.enter_context(site_servers.unbound(servers, V6_SERVER, tmp_path_factory.mktemp("unbound")))
        ip("-n", gateway, "address", "add", f"{CLIENTS[0]}/32", "dev", "lo")
        ip("-n", gateway, "address", "add", f"{CLIENTS[1]}/128", "dev", "lo", "nodad")
        yield gateway


@pytest.fixture(name="run")
def _run(site: str, tmp_path: Path) -> Iterator[Callable[[Script], None]]:
    def run(script: Script) -> None:
        async def steps() -> None:
            gateway = Gateway(tmp_path)
            await gateway.extension.start()
            try:
                await gateway.extension.configured(ConfigureTun(OWN, ()))
                async with asyncio.timeout(60):
                    await script(gateway)
            finally:
                await gateway.extension.close()
            assert gateway.failures == []

        asyncio.run(steps())

    with entered(site), Tun.create(DEVICE):
        host.configure(DEVICE, OWN.ipv4, OWN.ipv6)
        inside = [ip_network("198.51.100.2/32"), ip_network("2001:db8::2/128"), PEERS_IPV4, PEERS_IPV6]
        host.set_routes(DEVICE, inside)
        try:
            yield run
        finally:
            host.remove_policy_routing()


SERVERS = pytest.mark.parametrize(
    "server",
    [
        pytest.param(V4_SERVER, id="dnsmasq"),
        pytest.param(V6_SERVER, id="unbound", marks=pytest.mark.skipif(not UNBOUND, reason="unbound is not installed")),
    ],
)


@SERVERS
def test_names_are_looked_up_outside_the_tunnel(run: Callable[[Script], None], server: str) -> None:
    async def script(gateway: Gateway) -> None:
        gateway.use(server)
        assert await gateway.look_up("app.internal") == EXPECTED
        if server == V4_SERVER:  # unbound gives an alias of its own data alone, for others to follow
            assert await gateway.look_up("alias.internal") == EXPECTED
        assert await gateway.look_up("four.internal") == (ip_address("192.0.2.4"),)
        assert await gateway.look_up("six.internal") == (ip_address("2001:db8:1::6"),)
        assert await gateway.look_up("nobody.internal") is None
        many = await gateway.look_up("many.internal")  # over TCP: it fits into no datagram
        assert many == tuple(map(ip_address, MANY[: resolver.MOST_ADDRESSES]))
        counted = gateway.extension.counters()["resolver"]
        assert (counted["resolved"], counted["no_such_name"]) == (5 if server == V4_SERVER else 4, 1)

    run(script)


def test_a_dead_name_server_is_followed_by_the_next_and_a_change_is_noticed(run: Callable[[Script], None]) -> None:
    async def script(gateway: Gateway) -> None:
        gateway.use(NOBODY, V4_SERVER)
        assert await gateway.look_up("app.internal") == EXPECTED
        gateway.use()
        assert await gateway.look_up("app.internal") is None
        gateway.use(V4_SERVER)
        assert await gateway.look_up("app.internal") == EXPECTED

    run(script)


@SERVERS
@pytest.mark.parametrize("family", [4, 6])
def test_clients_get_srv_and_txt_by_udp_and_tcp(run: Callable[[Script], None], server: str, family: int) -> None:
    async def script(gateway: Gateway) -> None:
        gateway.use(server)
        for transport in ("+notcp", "+tcp"):
            short = [transport, "+short"]
            assert await gateway.dig(*short, "SRV", "_sip._tcp.app.internal", family=family) == [SRV]
            assert await gateway.dig(*short, "TXT", "app.internal", family=family) == [f'"{TEXT}"']
            (status,) = (
                line for line in await gateway.dig(transport, "A", "app.internal", family=family) if "status" in line
            )
            assert "REFUSED" in status
        # By UDP no more than the tunnel takes in a packet; dig asks again over TCP.
        texts = [f'"{text}"' for text in LONG_TEXTS]
        assert sorted(await gateway.dig("+notcp", "+short", "TXT", "long.internal", family=family)) == texts
        told = await gateway.dig("+notcp", "+ignore", "+bufsize=4096", "TXT", "long.internal", family=family)
        (flags,) = (line for line in told if line.startswith(";; flags"))
        (size,) = (line.split()[-1] for line in told if line.startswith(";; MSG SIZE"))
        assert " tc" in flags
        assert int(size) <= LONGEST_UDP_ANSWER
        # One stream, several queries.
        both = ["+tcp", "+keepopen", "+short", "_sip._tcp.app.internal", "SRV", "app.internal", "TXT"]
        assert await gateway.dig(*both, family=family) == [SRV, f'"{TEXT}"']

    run(script)


def test_without_a_name_server_that_answers_it_is_a_server_failure_and_later_it_is_not(
    run: Callable[[Script], None],
) -> None:
    async def script(gateway: Gateway) -> None:
        gateway.use(NOBODY)
        (status,) = (line for line in await gateway.dig("SRV", "_sip._tcp.app.internal") if "status" in line)
        assert "SERVFAIL" in status
        gateway.use(NOBODY, V4_SERVER)
        assert await gateway.dig("+short", "SRV", "_sip._tcp.app.internal") == [SRV]

    run(script)
