"""What lies on the way from the gateway to a resource shows through the tunnel.

::

    client ══ tunnel ══ gateway ─ 192.168.77.0/30, fd00:77::/64 ─ router ─ 192.168.78.0/30, fd00:78::/64 ─ resource

The router has no address of a resource. The link behind it is as narrow as a test wants it.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest

from lab.network import execute, run_command
from lab.plan import RESOURCE, LabSettings
from lab.processes import wait_until
from lab.stack import Stack
from lab.topology import Lab
from lab.transfer import upload

pytestmark = pytest.mark.root

# (name of the near end, its addresses, name of the far end, its addresses) of each link
LINKS: Final = (
    ("gateway", ("192.168.77.1/30", "fd00:77::1/64"), "router", ("192.168.77.2/30", "fd00:77::2/64")),
    ("router", ("192.168.78.1/30", "fd00:78::1/64"), "resource", ("192.168.78.2/30", "fd00:78::2/64")),
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(LabSettings()) as lab:
        names = {"gateway": lab.gateway, "resource": lab.resource, "router": lab.resource.replace("resource", "router")}
        run_command(["ip", "netns", "add", names["router"]])  # goes with the lab, by its name
        forwarding = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.all.accept_dad=0"]
        execute(names["router"], ["sysctl", "-qw", *forwarding])
        for near, near_addresses, far, far_addresses in LINKS:
            ends = ((near, f"to-{far}", near_addresses), (far, f"to-{near}", far_addresses))
            veth = ["type", "veth", "peer", "name", f"to-{near}", "netns", names[far]]
            execute(names[near], ["ip", "link", "add", f"to-{far}", *veth])
            for role, interface, addresses in ends:
                for address in addresses:
                    nodad = ["nodad"] if ":" in address else []
                    execute(names[role], ["ip", "address", "add", address, "dev", interface, *nodad])
                execute(names[role], ["ip", "link", "set", interface, "up"])
        for role, network, via in (
            ("gateway", f"{RESOURCE.address}/32", "192.168.77.2"),
            ("gateway", f"{RESOURCE.address6}/128", "fd00:77::2"),
            ("router", f"{RESOURCE.address}/32", "192.168.78.2"),
            ("router", f"{RESOURCE.address6}/128", "fd00:78::2"),
            ("resource", "192.168.77.0/30", "192.168.78.1"),
            ("resource", "fd00:77::/64", "fd00:78::1"),
        ):
            execute(names[role], ["ip", "route", "add", network, "via", via])
        Stack(lab, ebpf=False).start()
        yield lab


@pytest.mark.parametrize(
    ("destination", "routers"),
    [(RESOURCE.address, ["100.", "192.168.77.2"]), (RESOURCE.address6, ["fd00:2021:1111:", "fd00:77::2"])],
)
def test_a_traceroute_sees_gateway_and_router(lab: Lab, destination: str, routers: list[str]) -> None:
    lab.run(lab.client, ["ping", "-c1", "-W20", destination])  # there is a connection
    for hops, router in enumerate(routers, 1):
        said = ping(lab, "-c1", "-W15", f"-t{hops}", destination)
        assert re.search(rf"From {re.escape(router)}[^ ]* icmp_seq=1 Time (to live )?exceeded", said), said


def test_a_narrow_link_behind_the_gateway_does_not_make_uploads_hang(lab: Lab) -> None:
    router = lab.resource.replace("resource", "router")
    lab.run(router, ["ip", "route", "change", f"{RESOURCE.address}/32", "via", "192.168.78.2", "mtu", "1000"])
    said = ping(lab, "-c1", "-W15", "-Mdo", "-s1100", RESOURCE.address)
    assert "From 192.168.77.2 icmp_seq=1 Frag needed and DF set (mtu = 1000)" in said, said
    upload(lab, 1_000_000)


def ping(lab: Lab, *arguments: str) -> str:
    """What ``ping`` prints, whether there was an answer or not."""
    command = ["ip", "netns", "exec", lab.client, "ping", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout


@pytest.mark.parametrize("there", [RESOURCE.address, RESOURCE.address6], ids=["ipv4", "ipv6"])
def test_a_datagram_of_8_kib_arrives_in_fragments_and_so_does_its_echo(lab: Lab, there: str) -> None:
    """Over IPv6 the resource learns from the first echo how little the tunnel carries, and is asked again."""
    server = lab.spawn("echo", lab.resource, [sys.executable, "-c", ECHO_SERVER, there])
    wait_until(lambda: "listening" in server.log_text(), "the echo server listens", [server])
    lab.run(lab.client, ["ping", "-c1", "-W20", there])  # there is a connection
    lab.run(lab.client, [sys.executable, "-c", ECHO_CLIENT, there])
    server.terminate()


ECHO_SERVER: Final = """
import socket, sys
here = sys.argv[1]
server = socket.socket(socket.AF_INET6 if ":" in here else socket.AF_INET, socket.SOCK_DGRAM)
server.bind((here, 7))
print("listening", flush=True)
while True:
    data, sender = server.recvfrom(65535)
    server.sendto(data, sender)
"""
ECHO_CLIENT: Final = """
import random, socket, sys
there = sys.argv[1]
client = socket.socket(socket.AF_INET6 if ":" in there else socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(1)
sent = random.randbytes(8192)
for _ in range(5):
    client.sendto(sent, (there, 7))
    try:
        assert client.recv(65535) == sent
        break
    except TimeoutError:
        continue
else:
    raise SystemExit("no answer")
"""
