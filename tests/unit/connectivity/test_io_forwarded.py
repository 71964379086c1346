"""For whom a proxy asks: what a stranger writes into the header counts for nothing."""

from ipaddress import ip_address
from typing import Final

import pytest

from connectivity.io.forwarded import MOST_HOPS, client_of
from connectivity.networks import read_networks

TRUSTED: Final = read_networks(["127.0.0.1", "10.0.0.0/24", "2001:db8:1::/64", "::1"])


@pytest.mark.parametrize(
    ("peer", "values", "expected"),
    [
        pytest.param("127.0.0.1", ["192.0.2.7"], "192.0.2.7", id="one hop"),
        pytest.param("::1", ["2001:db8::7"], "2001:db8::7", id="IPv6"),
        pytest.param("127.0.0.1", ["192.0.2.7, 10.0.0.3"], "192.0.2.7", id="two proxies of ours"),
        pytest.param("127.0.0.1", ["192.0.2.7", "10.0.0.3"], "192.0.2.7", id="a header each"),
        pytest.param("127.0.0.1", ["192.0.2.7,2001:db8:1::9,10.0.0.3"], "192.0.2.7", id="families mixed"),
        pytest.param("127.0.0.1", ["203.0.113.1, 192.0.2.7"], "192.0.2.7", id="what the client wrote before"),
        pytest.param("127.0.0.1", ["203.0.113.1, 192.0.2.7, 10.0.0.3"], "192.0.2.7", id="before two proxies"),
        pytest.param("127.0.0.1", ["10.0.0.9"], "10.0.0.9", id="somebody at a proxy's own network"),
        pytest.param("192.0.2.9", ["203.0.113.1"], "192.0.2.9", id="an untrusted one's word"),
        pytest.param("192.0.2.9", ["127.0.0.1"], "192.0.2.9", id="who pretends to be a proxy"),
        pytest.param("127.0.0.1", [], "127.0.0.1", id="no header"),
        pytest.param("127.0.0.1", [""], "127.0.0.1", id="an empty one"),
        pytest.param("127.0.0.1", ["192.0.2.7:4711"], "192.0.2.7", id="with a port"),
        pytest.param("127.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7", id="IPv6 with a port"),
        pytest.param("127.0.0.1", ["[2001:db8::7]"], "2001:db8::7", id="IPv6 in brackets"),
        pytest.param("127.0.0.1", ["::ffff:192.0.2.7"], "192.0.2.7", id="IPv4 within IPv6"),
        pytest.param("127.0.0.1", ["  192.0.2.7\t"], "192.0.2.7", id="spaces"),
        pytest.param("127.0.0.1", ["192.0.2.7,"], "127.0.0.1", id="nothing behind the comma"),
        pytest.param("127.0.0.1", ["192.0.2.7, unknown"], "127.0.0.1", id="no address"),
        pytest.param("127.0.0.1", ["192.0.2.7, nonsense, 10.0.0.3"], "10.0.0.3", id="nonsense before a proxy"),
        pytest.param("127.0.0.1", ["fe80::1%eth0"], "127.0.0.1", id="a zone"),
        pytest.param("127.0.0.1", ["fe80::1%a\x1b[31m WARN portal: forged"], "127.0.0.1", id="a zone to be logged"),
        pytest.param("127.0.0.1", ["192.0.2.7 WARN portal: forged"], "127.0.0.1", id="words behind it"),
        pytest.param("127.0.0.1", ["192.0.2.7:1\x1b[2K"], "192.0.2.7", id="a terminal's sequence for a port"),
        pytest.param("127.0.0.1", ["١٩٢.0.2.7"], "127.0.0.1", id="digits of others"),
        pytest.param("127.0.0.1", ["0" * 100_000], "127.0.0.1", id="long"),
    ],
)
def test_the_right_most_that_no_proxy_of_ours_is(peer: str, values: list[str], expected: str) -> None:
    found = client_of(ip_address(peer), values, TRUSTED)
    assert found == ip_address(expected)
    assert str(found) == expected, "what is logged is an address in its usual form"


def test_so_many_hops_are_looked_at() -> None:
    chain = ["192.0.2.7", *["10.0.0.3"] * (MOST_HOPS - 1)]
    assert str(client_of(ip_address("127.0.0.1"), [", ".join(chain)], TRUSTED)) == "192.0.2.7"
    assert str(client_of(ip_address("127.0.0.1"), [", ".join([*chain, "10.0.0.3"])], TRUSTED)) == "10.0.0.3"


def test_without_proxies_nobody_is_believed() -> None:
    assert str(client_of(ip_address("127.0.0.1"), ["192.0.2.7"], ())) == "127.0.0.1"
