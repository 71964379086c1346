"""Derived values: the vectors that make components agree, and stability."""

import base64
import hashlib
import re

from hypothesis import given
from hypothesis import strategies as st

from connectivity.turn import credentials
from portal.derivation import (
    DEVICE_ADDRESSES,
    DEVICES_IPV4,
    DEVICES_IPV6,
    Party,
    device_id,
    device_offset,
    ice_credentials,
    named_id,
    preshared_key,
    psk_base,
    tunnel_addresses,
)

SECRET = "a secret of the portal"
CLIENT = Party("3f1d0a52-6a0b-4f7e-9b8e-0c1d2e3f4a5b", base64.b64encode(b"\x01" * 32).decode(), b"\xaa" * 32)
GATEWAY = Party("a7c9e1d3-5b7f-4921-8d3c-6e5f4a3b2c1d", base64.b64encode(b"\x02" * 32).decode(), b"\xbb" * 32)


def test_preshared_key_vector() -> None:
    assert preshared_key(CLIENT, GATEWAY) == "puLSDDMtfgMPjz1euhI9t+qZ+Z41eswKgX4jZDnNWo4="


def test_ice_credentials_are_of_the_right_length_and_rest_on_everything() -> None:
    client, gateway = ice_credentials(SECRET, CLIENT, GATEWAY)
    assert [len(text) for text in (*client, *gateway)] == [4, 22, 4, 22]
    assert all(re.fullmatch("[a-z2-7]+", text) for text in (*client, *gateway))
    assert ice_credentials(SECRET, CLIENT, GATEWAY) == (client, gateway)
    others = [
        ice_credentials("another secret", CLIENT, GATEWAY),
        ice_credentials(SECRET, GATEWAY, CLIENT),
        ice_credentials(SECRET, CLIENT._replace(public_key="x"), GATEWAY),
        ice_credentials(SECRET, CLIENT, GATEWAY._replace(public_key="x")),
    ]
    assert len({pair[0].password for pair in (*others, (client, gateway))}) == 5


def test_nothing_that_others_know_gives_the_ice_credentials() -> None:
    """They were a plain hash of two ids and two public keys."""
    text = f"{CLIENT.id}:{CLIENT.public_key}:{GATEWAY.id}:{GATEWAY.public_key}"
    known = base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()
    client, gateway = ice_credentials(SECRET, CLIENT, GATEWAY)
    assert not any(part in known for part in (*client, *gateway))


def test_turn_credentials_vector() -> None:
    salt = credentials.salt("test_public_key")
    assert credentials.username(1696118400, salt) == "1696118400:5d9CsB7vot2KRIXMGXivBcgmjnW0ClvN5q/DxOeFotA"
    assert credentials.password(1696118400, "test_secret", salt) == "+dkKyS/Rl06h5jatgTWfKcZoeDxEmT+TfsrH4x4cddA"


def test_secrets_stay_out_of_repr() -> None:
    client, _ = ice_credentials(SECRET, CLIENT, GATEWAY)
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


def test_fields_of_a_device_id_are_joined_in_one_way() -> None:
    ids = {
        device_id("client", "corp:bob", "dev1"),
        device_id("client", "corp", "bob:dev1"),
        device_id("client", 'corp", "bob', "dev1"),
        device_id("client", "corp", 'bob", "dev1'),
        device_id("gateway", "corp", "bob:dev1"),
    }
    assert len(ids) == 5


def test_where_an_address_lies_cannot_be_computed_without_the_secret() -> None:
    assert device_offset(SECRET, "device") == device_offset(SECRET, "device")
    assert device_offset(SECRET, "device") != device_offset("another secret", "device")


@given(st.text())
def test_addresses_avoid_the_ends_of_the_ranges(device: str) -> None:
    offset = device_offset(SECRET, device)
    assert 2 <= offset <= DEVICE_ADDRESSES - 2
    ipv4, ipv6 = tunnel_addresses(offset)
    assert ipv4 in DEVICES_IPV4
    assert ipv6 in DEVICES_IPV6


def test_last_usable_address() -> None:
    ipv4, ipv6 = tunnel_addresses(DEVICE_ADDRESSES - 2)
    assert str(ipv4) == "100.95.255.254"
    assert ipv6 in DEVICES_IPV6
