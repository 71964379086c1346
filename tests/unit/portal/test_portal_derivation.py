"""Derived values: the vectors that make components agree, and stability."""

import base64

from hypothesis import given
from hypothesis import strategies as st

from connectivity.turn import credentials
from portal.derivation import (
    DEVICE_ADDRESSES,
    DEVICES_IPV4,
    DEVICES_IPV6,
    Party,
    device_offset,
    ice_credentials,
    named_id,
    preshared_key,
    psk_base,
    tunnel_addresses,
)

CLIENT = Party("3f1d0a52-6a0b-4f7e-9b8e-0c1d2e3f4a5b", base64.b64encode(b"\x01" * 32).decode(), b"\xaa" * 32)
GATEWAY = Party("a7c9e1d3-5b7f-4921-8d3c-6e5f4a3b2c1d", base64.b64encode(b"\x02" * 32).decode(), b"\xbb" * 32)


def test_preshared_key_vector() -> None:
    assert preshared_key(CLIENT, GATEWAY) == "puLSDDMtfgMPjz1euhI9t+qZ+Z41eswKgX4jZDnNWo4="


def test_ice_credentials_vector() -> None:
    client, gateway = ice_credentials(CLIENT, GATEWAY)
    assert tuple(client) == ("m4ck", "mynvgasig3gf5gjzz3h2pg")
    assert tuple(gateway) == ("cw3q", "mjkgck6ehcyu5mhsyae3ra")


def test_turn_credentials_vector() -> None:
    salt = credentials.salt("test_public_key")
    assert credentials.username(1696118400, salt) == "1696118400:5d9CsB7vot2KRIXMGXivBcgmjnW0ClvN5q/DxOeFotA"
    assert credentials.password(1696118400, "test_secret", salt) == "+dkKyS/Rl06h5jatgTWfKcZoeDxEmT+TfsrH4x4cddA"


def test_secrets_stay_out_of_repr() -> None:
    client, _ = ice_credentials(CLIENT, GATEWAY)
    assert client.password not in repr(client)
    assert "\\xaa" not in repr(CLIENT)


def test_psk_base_depends_on_key_and_device() -> None:
    bases = {psk_base("a", "1"), psk_base("a", "2"), psk_base("b", "1")}
    assert len(bases) == 3
    assert all(len(base) == 32 for base in bases)
    assert psk_base("a", "1") == psk_base("a", "1")


def test_ids_are_those_of_all_earlier_releases() -> None:
    assert named_id("site", "hq") == "c0c0fac4-bd39-5f78-a0a9-d8d7875448ab"
    assert named_id("site", "hq") != named_id("resource", "hq")


@given(st.text())
def test_addresses_avoid_the_ends_of_the_ranges(device_id: str) -> None:
    offset = device_offset(device_id)
    assert 2 <= offset <= DEVICE_ADDRESSES - 2
    ipv4, ipv6 = tunnel_addresses(offset)
    assert ipv4 in DEVICES_IPV4
    assert ipv6 in DEVICES_IPV6


def test_last_usable_address() -> None:
    ipv4, ipv6 = tunnel_addresses(DEVICE_ADDRESSES - 2)
    assert str(ipv4) == "100.95.255.254"
    assert ipv6 in DEVICES_IPV6
