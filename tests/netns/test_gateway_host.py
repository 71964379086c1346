"""What the gateway's kernel lets through, by the table of ours, on a running stack (drawn in ``lab.plan``).

The resource's network includes an address of the gateway's host, 172.20.0.1. A stranger stands on the gateway's outer
link, in its router's namespace.
"""

import json
import subprocess
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address
from typing import Final

import pytest

from connectivity.ip.icmp import V4_FRAGMENTATION_NEEDED, V4_UNREACHABLE, build_error
from gateway.peers import SITE_DNS_PORT
from gateway.rules import TABLE
from lab.errors import LabError
from lab.measure import PAGE_URL, PAGE_URL6, first_answer_ms
from lab.plan import GATEWAY, GATEWAY_INSIDE, GATEWAY_RESOURCES, RESOURCE, TUN_NAME
from lab.processes import Process, wait_until
from lab.stack import Stack, postern_command
from lab.topology import Lab

pytestmark = pytest.mark.root

LONG: Final = 50_000_000  # more than buffers on the way hold
PATIENCE_SECONDS: Final = 20  # for what is to come; for what is not a second is enough
FOREIGN: Final = "table inet host_filter { chain onward { type filter hook forward priority filter; policy drop; }; }"
RAW_SEND: Final = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
sender.sendto(bytes.fromhex(sys.argv[1]), (sys.argv[2], 0))
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Lab() as lab:
        stack = Stack(lab, ebpf=False)
        stack.start()
        lab.run(lab.resource, ["ip", "route", "add", "default", "via", GATEWAY_RESOURCES.address])
        serve(lab, "gateway", "22")
        serve(lab, "client", "22")
        yield stack


@pytest.fixture(autouse=True)
def connected(stack: Stack) -> None:
    wait_until(partial(has_table, stack.lab), "the gateway has its table")
    for url in (PAGE_URL, PAGE_URL6):
        first_answer_ms(stack.lab, url)


def serve(lab: Lab, role: str, port: str) -> None:
    process = lab.spawn(f"{role}-{port}", lab.namespace(role), ["python3", "-m", "lab.resource", port])
    wait_until(lambda: "listening" in process.log_text(), f"{role} serves port {port}", [process])


def has_table(lab: Lab) -> bool:
    return succeeds(lab, lab.gateway, "nft", "list", "chain", "inet", TABLE, "forward")


def succeeds(lab: Lab, namespace: str, *command: str) -> bool:
    try:
        lab.run(namespace, command)
    except LabError:
        return False
    return True


def fetches(lab: Lab, namespace: str, address: str, port: int = 80, seconds: int = 1) -> bool:
    host = f"[{address}]" if ":" in address else address
    return succeeds(lab, namespace, "curl", "-sf", "--connect-timeout", str(seconds), f"http://{host}:{port}/")


def is_answered(lab: Lab, namespace: str, address: str, seconds: int = 1) -> bool:
    """Whether the site's DNS answers there, whatever it says."""
    where = [f"@{address}", "-p", str(SITE_DNS_PORT)]
    return succeeds(lab, namespace, "dig", *where, "+tcp", "+tries=1", f"+time={seconds}", "nobody.example", "SRV")


def pings(lab: Lab, namespace: str, address: str, seconds: int = 1) -> bool:
    return succeeds(lab, namespace, "ping", "-c", "1", "-W", str(seconds), address)


def tunnel_addresses(lab: Lab, namespace: str) -> tuple[str, str]:
    (link,) = json.loads(lab.run(namespace, ["ip", "-j", "address", "show", "dev", TUN_NAME]))
    ipv4, ipv6 = (entry["local"] for entry in link["addr_info"] if entry["scope"] == "global")
    return ipv4, ipv6


def test_the_host_serves_clients_nothing_but_echo_and_the_sites_dns(stack: Stack) -> None:
    lab = stack.lab
    for own in tunnel_addresses(lab, lab.gateway):
        assert pings(lab, lab.user, own, PATIENCE_SECONDS)
        assert is_answered(lab, lab.user, own, PATIENCE_SECONDS)
        assert not fetches(lab, lab.user, own, 22)
    for other in (GATEWAY_RESOURCES.address, GATEWAY_RESOURCES.address6):  # granted: policy lets them through
        assert pings(lab, lab.user, other, PATIENCE_SECONDS)
        assert not fetches(lab, lab.user, other, 22)
        assert not is_answered(lab, lab.user, other)
    refused = json.loads(lab.run(lab.gateway, ["nft", "-j", "list", "chain", "inet", TABLE, "input"]))["nftables"][-1]
    assert refused["rule"]["expr"][0]["counter"]["packets"] >= 4


def test_a_stranger_does_not_reach_resources_through_the_gateways_host(stack: Stack) -> None:
    lab = stack.lab
    stranger = lab.gateway_nat
    assert pings(lab, stranger, GATEWAY.address, PATIENCE_SECONDS)
    lab.run(stranger, ["ip", "route", "replace", RESOURCE.network, "via", GATEWAY.address])
    assert not pings(lab, stranger, RESOURCE.address)
    assert not fetches(lab, lab.resource, GATEWAY_INSIDE.address, 22)


def test_a_resource_begins_nothing_and_its_errors_are_about_living_flows(stack: Stack) -> None:
    lab = stack.lab
    client, client6 = tunnel_addresses(lab, lab.client)
    assert fetches(lab, lab.client, client, 22, PATIENCE_SECONDS)
    for address in (client, client6):
        assert not fetches(lab, lab.resource, address, 22)
        assert not pings(lab, lab.resource, address)
    forged = forged_error(client)
    lab.run(lab.resource, ["python3", "-c", RAW_SEND, forged.hex(), client])
    first_answer_ms(lab)  # behind which the error would have arrived
    assert "mtu 576" not in lab.run(lab.client, ["ip", "route", "get", RESOURCE.address])


def forged_error(client: str) -> bytes:
    """A "fragmentation needed, MTU 576" about an echo request that the client never sent."""
    quoted = bytearray.fromhex("4500 0028 0000 4000 4001 0000 00000000 00000000 0800 0000 1234 0001")
    source, destination = IPv4Address(client), RESOURCE.ipv4.ip
    quoted[12:16], quoted[16:20] = source.packed, destination.packed
    return build_error(destination, source, V4_UNREACHABLE, V4_FRAGMENTATION_NEEDED, (576).to_bytes(4), bytes(quoted))


def test_a_gateway_that_is_restarted_keeps_running_downloads(stack: Stack) -> None:
    lab = stack.lab
    target = lab.logs / "running"
    command = ["curl", "-sS", "--keepalive-time", "1", "--limit-rate", "6M", "-o", str(target)]
    running = lab.spawn("running", lab.user, [*command, f"{PAGE_URL}bytes/{LONG}"])
    wait_until(lambda: target.exists() and target.stat().st_size > 0, "the download has begun", [running])
    assert gateway_of(stack).terminate() == 0
    left = lab.run(lab.gateway, ["nft", "list", "table", "inet", TABLE])
    assert ("masquerade" in left, "hook forward" in left) == (True, False)
    stack.start_gateway()
    assert running.popen.wait(60) == 0, running.log_text()
    assert target.stat().st_size == LONG


def test_a_table_that_drops_is_named_with_the_rule_that_helps(stack: Stack) -> None:
    lab = stack.lab
    gateway_of(stack).terminate()
    lab.run(lab.gateway, ["nft", FOREIGN])
    try:
        stack.start_gateway()
        wait_until(partial(says, stack, "Another table drops"), "the gateway names the table")
        (line,) = [line for line in gateway_of(stack).log_text().splitlines() if "Another table drops" in line]
        assert "WARN" in line
        assert "table=inet host_filter chain=onward" in line
        assert not pings(lab, lab.user, RESOURCE.address)
        doctor = ["ip", "netns", "exec", lab.gateway, str(postern_command()), "doctor", "gateway"]
        found = subprocess.run(doctor, capture_output=True, text=True, check=False)
        assert found.returncode == 1
        said = "chain onward of table inet host_filter (forward) drops the tunnel's traffic\n    → nft insert"
        assert said in found.stdout
        lab.run(lab.gateway, ["sh", "-c", line.partition("remedy=")[2]])
        assert pings(lab, lab.user, RESOURCE.address, PATIENCE_SECONDS)
        assert subprocess.run(doctor, capture_output=True, check=False).returncode == 0
    finally:
        lab.run(lab.gateway, ["nft", "delete", "table", "inet", "host_filter"])


def gateway_of(stack: Stack) -> Process:
    return next(process for process in reversed(stack.lab.processes) if process.name == "gateway")


def says(stack: Stack, text: str) -> bool:
    return text in gateway_of(stack).log_text()
