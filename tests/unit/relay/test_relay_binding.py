"""BINDING over everything, and that nobody's traffic is amplified by it (RFC 8489 §12)."""

import pytest

from connectivity.endpoint import Endpoint
from connectivity.stun import (
    Attribute,
    MessageClass,
    Method,
    Priority,
    Software,
    UnknownAttributes,
    XorMappedAddress,
    decode,
    encode,
)
from relay.core import FiveTuple, ToClient, Transport
from tests.unit.relay.playbook import (
    SERVER4,
    SERVER6,
    RelayUnderTest,
    attribute_of,
    error_code,
    only_answer,
)
from tests.unit.relay.standard import standalone

CLIENTS = {4: Endpoint.parse("203.0.113.5:51000"), 6: Endpoint.parse("[2001:db8:1::5]:51000")}
IP_AND_UDP_BYTES = {4: 28, 6: 48}


@pytest.mark.parametrize("transport", list(Transport))
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("relay", [RelayUnderTest(), standalone()], ids=["portal", "stand-alone"])
def test_anyone_is_answered_over_everything(relay: RelayUnderTest, version: int, transport: Transport) -> None:
    five_tuple = FiveTuple(CLIENTS[version], SERVER4 if version == 4 else SERVER6, transport)
    request = encode(Method.BINDING, MessageClass.REQUEST, bytes(12), (Software("someone"),), fingerprint=True)
    if transport is Transport.UDP:
        outputs = relay.from_client(five_tuple.client, request)
    else:
        outputs = relay.from_stream(five_tuple, request)
    answer = only_answer(outputs, five_tuple.client)
    assert answer.attributes == (XorMappedAddress(five_tuple.client),)
    assert answer.verify_fingerprint()
    assert not answer.has_integrity
    (output,) = outputs
    assert isinstance(output, ToClient)
    assert (output.transport, output.transmit.source) == (transport, five_tuple.server)


def unknown(*numbers: int) -> bytes:
    """A Binding request with empty attributes of these types."""
    attributes = b"".join(number.to_bytes(2, "big") + bytes(2) for number in numbers)
    request = bytearray(encode(Method.BINDING, MessageClass.REQUEST, bytes(12), ()) + attributes)
    request[2:4] = len(attributes).to_bytes(2, "big")
    return bytes(request)


def binding(*attributes: Attribute, fingerprint: bool = False) -> bytes:
    return encode(Method.BINDING, MessageClass.REQUEST, bytes(12), attributes, fingerprint=fingerprint)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (binding(), 0),
        (binding(fingerprint=True), 0),
        (unknown(0x7FFF), 420),
        (unknown(*range(0x7000, 0x7100)), 420),
        (unknown(0x0024), 400),  # PRIORITY without its value
    ],
)
def test_an_answer_is_at_most_half_as_large_again_as_its_request(version: int, request_bytes: bytes, code: int) -> None:
    relay = RelayUnderTest(software="a name that is much longer than any request")
    (output,) = relay.from_client(CLIENTS[version], request_bytes)
    assert isinstance(output, ToClient)
    answer = bytes(output.transmit.run.data)
    assert error_code(decode(answer)) == code
    headers = IP_AND_UDP_BYTES[version]
    assert len(answer) + headers <= 1.5 * (len(request_bytes) + headers)


def test_unknown_attributes_are_named_once_each() -> None:
    relay = RelayUnderTest()
    answer = only_answer(relay.from_client(CLIENTS[4], unknown(0x7000, 0x7001, 0x7000)), CLIENTS[4])
    assert attribute_of(answer, UnknownAttributes).types == (0x7000, 0x7001)


def test_attributes_of_ice_are_no_reason_to_refuse() -> None:
    answer = only_answer(RelayUnderTest().from_client(CLIENTS[4], binding(Priority(1))), CLIENTS[4])
    assert error_code(answer) == 0
