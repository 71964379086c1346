"""What the relay takes as its host's own, of a namespace's addresses and routes; and that it hears of changes."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from connectivity.io.firewall import filters
from relay.driver.addresses import HostChanges
from relay.driver.host_addresses import host_addresses
from tests.netns.plain_pair import entered, ip, namespaces

pytestmark = pytest.mark.root


@pytest.fixture
def host() -> Iterator[str]:
    with namespaces() as (here, _):
        yield here


def test_routes_say_what_is_local(host: str) -> None:
    ip("netns", "exec", host, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    for route in ("local 203.0.113.0/25 dev lo", "local 10.99.0.7 dev lo table main", "192.0.2.0/24 dev lo"):
        ip("-n", host, "route", "add", *route.split())
    ip("-n", host, "-6", "route", "add", "local", "2001:db8:77::/64", "dev", "lo")
    # A transparent proxy: only for packets with a mark, or that arrive, which the relay's do not.
    ip("-n", host, "route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "77")
    ip("-n", host, "rule", "add", "fwmark", "7", "lookup", "77")
    ip("-n", host, "rule", "add", "iif", "lo", "fwmark", "7", "lookup", "77")
    with entered(host):
        found = host_addresses()
    for text in ("198.51.100.1", "198.51.100.255", "2001:db8::1", "2001:db8::", "10.99.0.7", "203.0.113.9"):
        assert ip_address(text) in found, text
    assert ip_address("2001:db8:77::1:2:3") in found
    for text in ("198.51.100.2", "2001:db8::2", "192.0.2.1", "203.0.113.200", "8.8.8.8", "127.0.0.2"):
        assert ip_address(text) not in found, text
    assert found.ranges == (ip_network("203.0.113.0/25"), ip_network("2001:db8:77::/64"))


@pytest.mark.parametrize("change", ["addr add 10.1.2.3/32 dev lo", "route add local 10.2.0.0/16 dev lo"])
def test_a_change_is_told_of(host: str, change: str) -> None:
    async def listen() -> bool:
        changes = HostChanges(asyncio.get_running_loop())
        try:
            await changes.wait(0.01)
            ip("-n", host, *change.split())
            began = asyncio.get_running_loop().time()
            await changes.wait(60)
            return asyncio.get_running_loop().time() - began < 30
        finally:
            changes.close()

    with entered(host):
        assert asyncio.run(listen())


@pytest.mark.parametrize("chain", ["inet filter input", "ip filter INPUT"])
def test_the_doctor_tells_what_keeps_clients_out_until_its_remedy_was_typed(host: str, chain: str) -> None:
    rules = f"""
table {chain.rpartition(" ")[0]} {{
  chain {chain.rpartition(" ")[2]} {{
    type filter hook input priority 0; policy drop;
    ct state established,related accept
    iifname lo accept
    tcp dport 22 accept
  }}
}}
"""
    subprocess.run(["ip", "netns", "exec", host, "nft", "-f", "-"], input=rules, text=True, check=True)
    (lost,) = examined(host)
    assert lost["what"].endswith("(input) drops UDP 3478, UDP 49152-65535, TCP 3478")
    remedy = lost["remedy"]
    if chain.startswith("ip "):  # whose command this machine may not have
        assert remedy.startswith("iptables -I INPUT -p udp --dport 3478 -j ACCEPT; ")
        remedy = f"nft insert rule {chain} meta l4proto {{ tcp, udp }} th dport {{ 3478, 49152-65535 }} accept"
        subprocess.run(["ip", "netns", "exec", host, "nft", remedy.removeprefix("nft ")], check=True)
    else:
        subprocess.run(["ip", "netns", "exec", host, "sh", "-c", remedy], check=True)
    assert examined(host) == []


def examined(host: str) -> list[dict[str, Any]]:
    script = (
        "import dataclasses, json; from postern.doctor.incoming import Opening, examine\n"
        "wanted = (Opening('udp', 3478, 3478), Opening('udp', 49152, 65535), Opening('tcp', 3478, 3478))\n"
        "print(json.dumps([dataclasses.asdict(each) for each in examine(wanted, (4, 6))]))"
    )
    command = ["ip", "netns", "exec", host, sys.executable, "-c", script]
    found: list[dict[str, Any]] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def test_chains_that_filter_are_found_and_others_are_not(host: str) -> None:
    with entered(host):
        assert filters(Path("/nowhere")) == []
    ruleset = """
table inet guard {
  chain in { type filter hook input priority 0; policy accept; }
  chain early { type filter hook ingress device "lo" priority 0; policy accept; }
  chain helper { }
  chain out { type nat hook postrouting priority 100; policy accept; }
}
table ip6 more {
  chain f { type filter hook forward priority 0; policy drop; }
}
table bridge other {
  chain f { type filter hook forward priority 0; policy drop; }
}
"""
    subprocess.run(["ip", "netns", "exec", host, "nft", "-f", "-"], input=ruleset, text=True, check=True)
    with entered(host):
        assert filters(Path("/nowhere")) == ["inet guard ingress", "inet guard input", "ip6 more forward"]
