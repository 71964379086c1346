"""Addresses and ranges that settings name."""

from ipaddress import ip_address, ip_network

from connectivity.networks import is_within


def test_networks() -> None:
    networks = (ip_network("10.0.0.0/24"), ip_network("2001:db8::7"))
    inside = ("10.0.0.200", "2001:db8::7")
    outside = ("10.0.1.0", "2001:db8::8")
    assert all(is_within(ip_address(text), networks) for text in inside)
    assert not any(is_within(ip_address(text), networks) for text in outside)
