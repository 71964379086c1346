"""What a network does not include unless it lies within it."""

from ipaddress import ip_address, ip_network

import pytest

from connectivity.ranges import SPECIAL, covers, excluded


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
