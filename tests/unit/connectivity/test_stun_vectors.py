"""Published and recomputed bytes, both ways: RFC 5769, RFC 8489 B.1, and messages between Firezone peers."""

import json
from pathlib import Path
from typing import Any

import pytest

from connectivity.endpoint import Endpoint
from connectivity.stun import (
    AdditionalAddressFamily,
    AddressFamily,
    Attribute,
    ErrorCodeAttribute,
    IceControlled,
    MessageClass,
    Method,
    Nonce,
    PasswordAlgorithm,
    Priority,
    Realm,
    RequestedTransport,
    Software,
    Userhash,
    Username,
    XorMappedAddress,
    decode,
    encode,
    long_term_key,
    long_term_key_sha256,
)

VECTORS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "stun.json").read_text(encoding="utf-8")
)
FIREZONE_USERNAME = "1893456000:kF8o3vGOqsBa5vErLDRSdEr69ibaE0PVezlbVE4FGbY"


def test_rfc5769_request() -> None:
    message = decode(_bytes("rfc5769_request"))
    assert (message.method, message.message_class) == (Method.BINDING, MessageClass.REQUEST)
    assert message.attributes == (
        Software("STUN test client"),
        Priority(0x6E0001FF),
        IceControlled(0x932FF9B151263B36),
        Username("evtj:h6vY"),
    )


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("rfc5769_ipv4_response", "192.0.2.1:32853"),
        ("rfc5769_ipv6_response", "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
    ],
)
def test_rfc5769_responses(name: str, address: str) -> None:
    message = decode(_bytes(name))
    assert message.message_class is MessageClass.SUCCESS
    assert message.attributes == (Software("test vector"), XorMappedAddress(Endpoint.parse(address)))


@pytest.mark.parametrize("name", ["rfc5769_request", "rfc5769_ipv4_response", "rfc5769_ipv6_response"])
def test_short_term_integrity_and_fingerprint_hold_over_verbatim_padding(name: str) -> None:
    message = decode(_bytes(name))
    assert message.has_integrity
    assert message.has_fingerprint
    assert message.verify_integrity(_key(name))
    assert not message.verify_integrity(_key(name) + b"x")
    assert message.verify_fingerprint()


def test_rfc5769_long_term_request_encodes_to_the_same_bytes() -> None:
    name = "rfc5769_long_term_request"
    message = decode(_bytes(name))
    assert message.attributes == (
        Username("\u30de\u30c8\u30ea\u30c3\u30af\u30b9"),
        Nonce("f//499k954d6OL34oL9FSTvy64sA"),
        Realm("example.org"),
    )
    assert message.verify_integrity(_key(name))
    assert not message.has_fingerprint
    assert not message.verify_fingerprint()
    again = encode(
        message.method, message.message_class, message.transaction_id, message.attributes, integrity_key=_key(name)
    )
    assert again == _bytes(name)


def test_rfc8489_sha256_request_encodes_to_the_same_bytes() -> None:
    entry = VECTORS["rfc8489_sha256_request"]
    key = long_term_key_sha256(entry["username"], entry["realm"], entry["password"])
    data = _bytes("rfc8489_sha256_request")
    message = decode(data)
    assert message.get(PasswordAlgorithm) == PasswordAlgorithm(2)
    assert isinstance(message.get(Userhash), Userhash)
    assert not message.has_integrity
    assert not message.verify_integrity(key)
    assert message.has_integrity_sha256
    assert message.verify_integrity_sha256(key)
    assert not message.verify_integrity_sha256(key + b"x")
    again = encode(
        message.method, message.message_class, message.transaction_id, message.attributes, integrity_sha256_key=key
    )
    assert again == data


@pytest.mark.parametrize(
    ("name", "method_class", "attributes", "length"),
    [
        (
            "firezone_allocate_request",
            MessageClass.REQUEST,
            (
                RequestedTransport(17),
                AdditionalAddressFamily(AddressFamily.IPV6),
                Username(FIREZONE_USERNAME),
                Realm("firezone"),
                Nonce("3f2504e0-4f89-41d3-9a0c-0305e82c3301"),
            ),
            172,
        ),
        (
            "firezone_unauthenticated_response",
            MessageClass.ERROR,
            (
                Software("relay"),
                ErrorCodeAttribute(401, "Unauthorized"),
                Realm("firezone"),
                Nonce("3f2504e0-4f89-41d3-9a0c-0305e82c3301"),
            ),
            128,
        ),
    ],
)
def test_firezone_messages(
    name: str, method_class: MessageClass, attributes: tuple[Attribute, ...], length: int
) -> None:
    data = _bytes(name)
    assert len(data) == length
    encoded = encode(Method.ALLOCATE, method_class, bytes(range(0xA0, 0xAC)), attributes, integrity_key=_key(name))
    assert encoded == data
    assert decode(data).attributes == attributes
    assert decode(data).verify_integrity(_key(name))


def test_long_term_key_is_the_published_one() -> None:
    assert _key("firezone_allocate_request").hex() == VECTORS["firezone_allocate_request"]["key"]


def test_a_nonce_never_shows_in_repr() -> None:
    assert "3f2504e0" not in repr(decode(_bytes("firezone_allocate_request")))


def _bytes(name: str) -> bytes:
    return bytes.fromhex("".join(VECTORS[name]["hex"]))


def _key(name: str) -> bytes:
    entry = VECTORS[name]
    if "username" not in entry:
        password: str = entry["password"]
        return password.encode()
    return long_term_key(entry["username"], entry["realm"], entry["password"])
