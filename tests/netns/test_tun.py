"""TUN devices against a real kernel: an unencrypted tunnel of two devices carries hash-checked TCP and UDP.

[pio-a] tun-pio ─ plain_tunnel ─ veth ─ plain_tunnel ─ tun-pio [pio-b]      topology: see ``plain_pair``
"""

import json
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest

from connectivity.errors import FatalError
from connectivity.io import host
from connectivity.io.tun import Tun
from connectivity.ip.flow import Flow
from connectivity.ranges import PRIVATE, excluded
from tests.children import ending
from tests.netns.plain_pair import entered, ip, namespaces
from tests.unit.connectivity.ip_oracle import ADDRESSES, V4, V6, udp

pytestmark = pytest.mark.root
OUTER = ("198.51.100.1", "198.51.100.2")
INNER = {4: ("100.64.0.1", "100.64.0.2"), 6: ("fd00:2021:1111::1", "fd00:2021:1111::2")}
ALL = "tso,uso,gso,gro"


class Tunnel:
    """Both ends; ``stop`` ends them and returns their counters, near end first."""

    def __init__(self, names: tuple[str, str], offloads: str) -> None:
        self.names = names
        self.ends = [
            start(
                name,
                "tests.netns.plain_tunnel",
                *("tun-pio", OUTER[index], OUTER[1 - index], INNER[4][index], INNER[6][index], offloads),
            )
            for index, name in enumerate(names)
        ]

    def transfer(self, version: int, protocol: str, *, serve: tuple[str, ...] = (), send: tuple[str, ...]) -> None:
        """Move bytes from the near to the far end and compare digests."""
        address = INNER[version][1]
        module = "tests.netns.plain_transfer"
        with (
            ending(start(self.names[1], module, f"{protocol}-serve", address, *serve)) as server,
            ending(start(self.names[0], module, f"{protocol}-send", address, *send, ready=False)) as client,
        ):
            sent, received = client.communicate(timeout=40)[0], server.communicate(timeout=40)[0]
        assert sent.strip()
        assert received == sent

    def stop(self) -> list[dict[str, Any]]:
        return [json.loads(end.communicate(timeout=20)[0]) for end in self.ends]


@contextmanager
def tunnel(offloads: str = ALL) -> Iterator[Tunnel]:
    with namespaces() as names:
        opened = Tunnel(names, offloads)
        try:
            yield opened
        finally:
            for end in opened.ends:
                end.kill()
                end.communicate()


def start(namespace: str, module: str, *arguments: str, ready: bool = True) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", namespace, sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if ready:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    return process


def test_super_packets_cross_whole_with_every_offload() -> None:
    with tunnel() as running:
        for version in (4, 6):
            running.transfer(version, "tcp", send=(str(30_000_000), "0"))
            for mss in ("517", "1001", "536"):
                running.transfer(version, "tcp", send=(str(3_000_000), mss))
            running.transfer(version, "udp", serve=("1000",), send=("1000", "1200"))
            running.transfer(version, "udp", serve=("1000",), send=("1000", "0"))
            running.transfer(version, "udp", serve=("1000",), send=("1000", "1100", "segment"))
            running.transfer(version, "udp", serve=("1000",), send=("1000", "333", "segment"))
        near, far = running.stop()
    for end in (near, far):
        assert end["errors"] == []
        assert [end[offload] for offload in ("tso", "gso", "gro")] == [True, True, True]
        assert end["tun"]["offload_failures"] == end["udp"]["gso_failures"] == end["udp"]["backlog_dropped"] == 0
    assert near["tun"]["super_packets_read"] > 500
    assert far["tun"]["super_packets_written"] > 500
    lost = near["udp"]["datagrams_sent"] - far["udp"]["datagrams_received"]
    assert 0 <= lost < 5  # a last acknowledgement may be on its way when the ends stop
    assert far["udp"]["datagrams_received"] > 8 * far["udp"]["batches_received"]


@pytest.mark.parametrize("offloads", ["none", "tso", "gso", "gro,tso"])
def test_any_choice_of_offloads_carries_the_same_bytes(offloads: str) -> None:
    with tunnel(offloads) as running:
        for version in (4, 6):
            running.transfer(version, "tcp", send=(str(2_000_000), "0"))
            running.transfer(version, "udp", serve=("300",), send=("300", "0"))
            running.transfer(version, "udp", serve=("400",), send=("400", "900", "segment"))
        near, far = running.stop()
    assert near["errors"] == far["errors"] == []
    assert near["tso"] == ("tso" in offloads)
    assert not near["uso"]
    assert bool(near["tun"]["super_packets_read"]) == ("tso" in offloads)
    if "tso" not in offloads:
        assert far["tun"]["super_packets_written"] == 0


def test_the_host_is_told_once_and_again() -> None:
    with namespaces() as (name, _), entered(name), Tun.create("tun-pio") as tun:
        for address in ("100.64.0.9", "100.64.0.1", "100.64.0.1"):
            host.configure("tun-pio", IPv4Address(address), IPv6Address("fd00:2021:1111::1"))
            host.set_routes("tun-pio", [ip_network("100.64.0.0/11")], [ip_network("10.1.0.0/16")])
        host.set_routes("tun-pio", [ip_network("10.0.0.0/8"), ip_network("fd00::/8")], [ip_network("100.64.0.0/11")])
        (link,) = json.loads(ip("-j", "-d", "address", "show", "dev", "tun-pio"))
        assert (link["mtu"], link["txqlen"]) == (1280, 10_000)
        assert link["gso_max_size"] in (host.FORWARDING_GSO_BYTES, host.SENDING_GSO_BYTES)
        ours = [(found["local"], found["prefixlen"]) for found in link["addr_info"] if found["scope"] == "global"]
        assert ours == [("100.64.0.1", 32), ("fd00:2021:1111::1", 128)]
        table = str(host.ROUTE_TABLE)
        assert [route["dst"] for route in json.loads(ip("-j", "-4", "route", "show", "table", table))] == ["10.0.0.0/8"]
        assert "fd00::/8" in ip("-6", "route", "show", "table", table)
        for family in ("-4", "-6"):
            assert ip(family, "rule", "show").count(f"not from all fwmark 0xfd002021 lookup {table}") == 1
        assert "dev tun-pio" in ip("route", "get", "10.1.2.3")
        ip("route", "add", "10.1.0.0/16", "dev", "lo")
        for apart, device in ((["10.1.0.0/16", "fd00:1::/32"], "lo"), (["10.2.0.0/16"], "tun-pio")):
            host.set_routes("tun-pio", [ip_network("10.0.0.0/8")], (), map(ip_network, apart))
            assert f"dev {device}" in ip("route", "get", "10.1.2.3")
            shown = ip("-4", "route", "show", "table", table) + ip("-6", "route", "show", "table", table)
            assert [line.split()[1] for line in shown.splitlines() if line.startswith("throw")] == apart
        assert (
            "dev tun-pio"
            not in subprocess.run(
                ["ip", "route", "get", "10.1.2.3", "mark", "0xfd002021"], capture_output=True, text=True, check=False
            ).stdout
        )
        for _ in range(2):
            host.remove_policy_routing()
        assert "fwmark" not in ip("rule", "show") + ip("-6", "rule", "show")
        assert tun.take_errors() == []


def test_the_internet_leads_into_the_device_and_private_networks_and_own_sockets_do_not() -> None:
    with namespaces() as (name, _), entered(name), Tun.create("tun-pio"):
        ip("route", "add", "default", "dev", "veth0")
        ip("-6", "route", "add", "default", "dev", "veth0")
        host.configure("tun-pio", IPv4Address("100.64.0.1"), IPv6Address("fd00:2021:1111::1"))
        tunnel_ranges = [ip_network("100.64.0.0/11"), ip_network("fd00:2021:1111::/107")]
        everything = [ip_network("0.0.0.0/0"), ip_network("::/0"), ip_network("10.20.0.0/16"), *tunnel_ranges]
        apart = [*excluded(tuple(everything)), *PRIVATE]
        host.set_routes("tun-pio", everything, (), apart)

        def device(address: str, *mark: str) -> str:
            return ip("route", "get", address, *mark).split(" dev ")[1].split()[0]

        for inside in ("9.9.9.9", "2620:fe::9", "10.20.0.5", "100.64.0.2", "fd00:2021:1111::2"):
            assert device(inside) == "tun-pio", inside
        for outside in ("192.168.1.1", "10.21.0.5", "172.16.0.1", "fd12::1", "169.254.169.254"):
            assert device(outside) == "veth0", outside
        for address in ("9.9.9.9", "2620:fe::9"):
            assert device(address, "mark", hex(host.SOCKET_MARK)) == "veth0", address
        host.set_routes("tun-pio", everything[2:], everything, excluded(tuple(everything[2:])))
        assert device("9.9.9.9") == device("2620:fe::9") == "veth0"
        assert device("10.20.0.5") == "tun-pio"
        host.remove_policy_routing()


def test_what_cannot_be_done_is_said() -> None:
    with namespaces() as (name, _), entered(name):
        with pytest.raises(OSError, match="no device tun-pio"):
            host.configure("tun-pio", IPv4Address("100.64.0.1"), None)
        with Tun.create("tun-pio") as tun:
            with pytest.raises(FatalError, match="cannot create TUN device tun-pio"):
                Tun.create("tun-pio")  # another process serves it
            with pytest.raises(FatalError, match="cannot create TUN device veth0"):
                Tun.create("veth0")
            with pytest.raises(FatalError, match="cannot create TUN device a-name-of-16-byt"):
                Tun.create("a-name-of-16-byt")
            with pytest.raises(FatalError, match="cannot create TUN device tun-pio"):
                Tun.create("tun-pio", queues=True)
            with pytest.raises(FatalError, match="cannot add a queue to TUN device tun-pio"):
                tun.add_queue()
            ip("link", "delete", "tun-pio")
            with pytest.raises(FatalError, match="cannot read from tun-pio"):
                list(tun.read())


def test_what_the_host_sends_into_a_full_queue_is_counted_and_the_rest_is_read() -> None:
    sent, room = 600, 100
    with ExitStack() as stack:
        name, _ = stack.enter_context(namespaces())
        stack.enter_context(entered(name))
        tun = stack.enter_context(Tun.create("tun-pio"))
        host.configure("tun-pio", IPv4Address(INNER[4][0]), IPv6Address(INNER[6][0]))
        host.set_routes("tun-pio", [ip_network("100.64.0.0/11")], ())
        ip("link", "set", "tun-pio", "txqueuelen", str(room))
        before = tun.counted().host_dropped
        sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for _ in range(sent):
            sender.sendto(b"x" * 200, (INNER[4][1], 9))
        arrived = 0
        while select.select([tun], [], [], 0.2)[0]:
            flows = ((Flow.from_key(packets.flow), packets.run.segment_count) for packets in tun.read())
            arrived += sum(count for flow, count in flows if flow.destination_port == 9)
        dropped = tun.counted().host_dropped - before
    assert 0 < arrived <= room
    assert arrived + dropped >= sent  # the host may have packets of its own for a new device


def test_a_device_of_several_queues_is_shared_with_nobody_else() -> None:
    with namespaces() as (name, _), entered(name), Tun.create("tun-pio", queues=True) as tun, tun.add_queue():
        for queues in (True, False):
            with pytest.raises(FatalError, match="cannot create TUN device tun-pio"):
                Tun.create("tun-pio", queues=queues)


@pytest.mark.parametrize("version", [4, 6])
def test_answers_come_back_on_the_queue_of_what_they_answer(version: int) -> None:
    """So a worker gets both ways of the flows that it carries, wherever the kernel would have put the first packet."""
    far, near = ADDRESSES[version]
    with ExitStack() as stack:
        name, _ = stack.enter_context(namespaces())
        stack.enter_context(entered(name))
        first = stack.enter_context(Tun.create("tun-pio", queues=True))
        queues = [first, *(stack.enter_context(first.add_queue()) for _ in range(3))]
        host.configure("tun-pio", IPv4Address(str(V4[1])), IPv6Address(str(V6[1])))
        host.set_routes("tun-pio", [ip_network(far)], ())
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        echo = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        echo.bind((str(near), 7))
        echo.settimeout(5)
        for number in range(40):
            queue = queues[number % 4]
            queue.write_packet(udp(version, b"ping", ports=(2000 + number, 7)))
            payload, sender = echo.recvfrom(2000)
            echo.sendto(payload, sender)
            assert select.select([queue], [], [], 5)[0], number
            flows = [Flow.from_key(answer.flow) for answer in queue.read()]
            assert [flow.destination_port for flow in flows if flow.source_port == 7] == [2000 + number]
