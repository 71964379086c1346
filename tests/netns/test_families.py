"""Hosts where a sysctl switched IPv6 off: client and gateway go on with IPv4, and say so.

[pio-a: net.ipv6.conf.{all,default}.disable_ipv6=1]    topology: see ``plain_pair``
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest

from connectivity.endpoint import Endpoint
from connectivity.io import families, host
from connectivity.io.tun import Tun
from gateway.masquerade import Masquerade
from relay.configuration import Configuration
from relay.driver.addresses import without_absent_families
from tests.netns.plain_pair import entered, ip, namespaces

pytestmark = [pytest.mark.root, pytest.mark.parametrize("conf", ["all", "default"])]
DEVICE = "tun-pio"
POSTERN = Path(sys.executable).with_name("postern")


@contextmanager
def host_without_ipv6(conf: str) -> Iterator[str]:
    with namespaces() as (name, _), entered(name):
        Path(f"/proc/sys/net/ipv6/conf/{conf}/disable_ipv6").write_text("1")
        if conf == "default":  # interfaces that are made later have none
            ip("link", "delete", "veth0")
        yield name


def test_the_device_works_with_ipv4_and_its_routes(conf: str, caplog: pytest.LogCaptureFixture) -> None:
    addresses = IPv4Address("100.64.0.1"), IPv6Address("fd00:2021:1111::1")
    networks = [ip_network(text) for text in ("fd00:1::/64", "10.0.0.0/8", "fd00:2::/64", "172.16.0.0/12")]
    with host_without_ipv6(conf), Tun.create(DEVICE):
        host.configure(DEVICE, *addresses)
        host.set_routes(DEVICE, networks)
        assert "100.64.0.1/32" in ip("addr", "show", "dev", DEVICE)
        found = ip("route", "show", "table", str(host.ROUTE_TABLE))
        assert [line.split()[0] for line in found.splitlines()] == ["10.0.0.0/8", "172.16.0.0/12"]
        host.set_routes(DEVICE, networks[1:2], networks)  # those of IPv6 were never there
        assert "172.16.0.0/12" not in ip("route", "show", "table", str(host.ROUTE_TABLE))
        host.remove_policy_routing()
        assert families.absence(6) == f"IPv6 is switched off (sysctl net.ipv6.conf.{conf}.disable_ipv6)"
        assert families.absence(4) is None
    (line,) = [record for record in caplog.records if record.message == "Cannot set the address of this family"]
    assert f"IPv6 is switched off (sysctl net.ipv6.conf.{conf}.disable_ipv6)" in str(line.__dict__["fields"])


def test_only_ipv6_to_configure_is_an_error_that_says_why(conf: str) -> None:
    with (
        host_without_ipv6(conf),
        Tun.create(DEVICE),
        pytest.raises(OSError, match=f"IPv6 is switched off .sysctl net.ipv6.conf.{conf}.disable_ipv6"),
    ):
        host.configure(DEVICE, None, IPv6Address("fd00:2021:1111::1"))


def test_the_doctor_tries_it_and_sees_no_obstacle(conf: str) -> None:
    with host_without_ipv6(conf) as name:
        examined = subprocess.run([POSTERN, "doctor", "client"], capture_output=True, text=True, check=False)
        said = " ".join(examined.stdout.split())  # however wide the lines are
        assert f"- no IPv6, all goes by IPv4: IPv6 is switched off (sysctl net.ipv6.conf.{conf}.disable_ipv6)" in said
        assert "tunnel device: ok" in said
        assert "postern-doctor" not in ip("-n", name, "link", "show")
        assert "fwmark" not in ip("rule", "show")


def test_a_gateway_masquerades_what_there_is(conf: str, caplog: pytest.LogCaptureFixture) -> None:
    with host_without_ipv6(conf), Tun.create(DEVICE):
        masquerade = Masquerade(DEVICE)
        forwarding = Path("/proc/sys/net/ipv4/ip_forward")
        masquerade.apply()
        assert forwarding.read_text().strip() == "1"
        masquerade.remove()
        assert forwarding.read_text().strip() == "0"  # as it was
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [(record.message, record.__dict__.get("fields")) for record in warned] == []


def test_a_relay_serves_the_other_family(conf: str, caplog: pytest.LogCaptureFixture) -> None:
    both = Configuration(
        public={4: IPv4Address("198.51.100.1"), 6: IPv6Address("2001:db8::1")},
        listen=(Endpoint.parse("0.0.0.0:3478"), Endpoint.parse("[::]:3478")),
    )
    with host_without_ipv6(conf):
        left = without_absent_families(both)
    assert (set(left.public), left.listen) == ({4}, both.listen[:1])
    assert [record.message for record in caplog.records] == ["Not serving an address family"]
