"""What a network does not include unless it lies within it."""

from ipaddress import ip_address, ip_network

import pytest

from connectivity.ranges import SPECIAL, covers, excluded, is_of_the_internet, is_proxy, is_special


@pytest.mark.parametrize(
    ("network", "address", "included"),
    [
        ("0.0.0.0/0", "169.254.169.254", False),
        ("169.254.0.0/16", "169.254.7.7", True),
        ("169.254.0.0/16", "169.254.169.254", False),  # a special range within another has to be named itself
        ("169.254.169.254/32", "169.254.169.254", True),
        ("168.0.0.0/5", "169.254.7.7", False),
        ("100.64.0.0/10", "100.64.0.1", True),
        ("100.0.0.0/8", "100.1.0.1", True),
        ("100.0.0.0/8", "100.64.0.1", False),
        ("64:ff9b::/96", "64:ff9b::7f00:1", False),
        ("::/0", "2001:db8::1", True),
        ("::/0", "10.0.0.1", False),
    ],
)
def test_a_network_covers_what_it_names(network: str, address: str, included: bool) -> None:
    assert covers(ip_network(network), ip_address(address)) is included


def test_what_is_left_out_of_routes_is_what_they_hold_and_do_not_name() -> None:
    assert excluded((ip_network("10.0.0.0/8"), ip_network("100.64.0.0/11"))) == ()
    assert excluded((ip_network("160.0.0.0/4"), ip_network("169.254.0.0/16"))) == (
        ip_network("168.63.129.16/32"),
        ip_network("169.254.169.254/32"),
        ip_network("169.254.170.2/32"),
        ip_network("169.254.170.23/32"),
    )
    assert excluded((ip_network("0.0.0.0/0"), ip_network("::/0"))) == SPECIAL


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd12::1", "fc00::1", "127.0.0.1", "169.254.1.1",
        "100.64.0.1", "100.127.255.255", "224.0.0.1", "255.255.255.255", "0.0.0.0", "::", "::1", "fe80::1", "ff02::1",
        "::ffff:8.8.8.8", "64:ff9b::10.0.0.1", "64:ff9b::127.0.0.1", "2002:c0a8:101::1", "2002:7f00:1::", "100.96.0.1",
        "fd00:2021:1111:8000::1", "168.63.129.16",
    ],
)  # fmt: skip
def test_no_address_of_the_internet(address: str) -> None:
    assert not is_of_the_internet(ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2001:db8::1", "64:ff9b::8.8.8.8", "2002:808:808::"],
)
def test_addresses_of_the_internet(address: str) -> None:
    assert is_of_the_internet(ip_address(address))


def test_private_addresses_are_not_special() -> None:
    assert not is_special(ip_address("10.0.0.1"))
    assert not is_special(ip_address("fd12::1"))
    assert is_special(ip_address("64:ff9b::169.254.169.254"))


@pytest.mark.parametrize(
    ("address", "stands"),
    [
        ("100.96.0.1", True), ("100.127.255.255", True), ("100.95.255.255", False), ("100.100.111.1", False),
        ("fd00:2021:1111:8000::", True), ("fd00:2021:1111:8000::1f:ffff", True), ("fd00:2021:1111::1", False),
        ("fd00:2021:1111:8000:100:100:111:0", False), ("10.0.0.1", False),
    ],
)  # fmt: skip
def test_addresses_that_may_stand_for_a_names(address: str, stands: bool) -> None:
    assert is_proxy(ip_address(address)) is stands
