"""Headers of PROXY protocol v2: what is read, and what is refused."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectivity.endpoint import Endpoint
from relay.core.proxy_protocol import MOST_BYTES, PREFIX_BYTES, ProxyHeaderError, client_of, length_behind

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
CLIENT4, PROXY4 = Endpoint.parse("203.0.113.5:51000"), Endpoint.parse("192.0.2.7:443")
CLIENT6, PROXY6 = Endpoint.parse("[2001:db8::5]:51000"), Endpoint.parse("[2001:db8::7]:443")
TLVS = b"\x01\x00\x02h2" + b"\x04\x00\x00"


def header(
    source: Endpoint, destination: Endpoint, tlvs: bytes = b"", *, command: int = 0x21, family: int | None = None
) -> bytes:
    """As a proxy writes it."""
    body = source.ip.packed + destination.ip.packed + struct.pack("!HH", source.port, destination.port) + tlvs
    kind = (0x11 if source.ip.version == 4 else 0x21) if family is None else family
    return SIGNATURE + struct.pack("!BBH", command, kind, len(body)) + body


def read(data: bytes) -> Endpoint | None:
    """As a driver reads it."""
    prefix = data[:PREFIX_BYTES]
    end = PREFIX_BYTES + length_behind(prefix)
    assert len(data) == end
    return client_of(prefix, data[PREFIX_BYTES:end])


@pytest.mark.parametrize("tlvs", [b"", TLVS])
@pytest.mark.parametrize(("client", "proxy"), [(CLIENT4, PROXY4), (CLIENT6, PROXY6)])
def test_the_client_is_read_whatever_else_is_told(client: Endpoint, proxy: Endpoint, tlvs: bytes) -> None:
    assert read(header(client, proxy, tlvs)) == client


def test_the_bytes_of_the_specification() -> None:
    data = SIGNATURE + bytes.fromhex("2111000c cb007105 c0000207 c738 01bb")
    assert read(data) == CLIENT4


def test_a_mapped_address_is_the_address_that_it_maps() -> None:
    mapped = Endpoint(ip_address("::ffff:203.0.113.5"), 51000)
    assert read(header(mapped, PROXY6)) == CLIENT4


@pytest.mark.parametrize("rest", [b"", b"anything", bytes(36)])
def test_a_proxy_s_own_connection_names_nobody(rest: bytes) -> None:
    for command, family in ((0x20, 0x00), (0x20, 0x11), (0x21, 0x00)):
        assert read(SIGNATURE + struct.pack("!BBH", command, family, len(rest)) + rest) is None


REFUSED = {
    "another signature": header(CLIENT4, PROXY4).replace(b"QUIT", b"quit"),
    "version 1": b"PROXY TCP4 203.0.113.5 192.0.2.7 51000 443\r\n",
    "version 3": header(CLIENT4, PROXY4, command=0x31),
    "another command": header(CLIENT4, PROXY4, command=0x22),
    "UDP": header(CLIENT4, PROXY4, family=0x12),
    "a UNIX socket": header(CLIENT6, PROXY6, bytes(200), family=0x31),
    "an unknown family": header(CLIENT4, PROXY4, family=0x41),
    "IPv6 in too few bytes": header(CLIENT4, PROXY4, family=0x21),
    "a length of the address alone": header(CLIENT4, PROXY4)[:14] + b"\x00\x08" + bytes(8),
    "a value that is cut off": header(CLIENT4, PROXY4, b"\x01\x00\x05h2"),
    "a value without a length": header(CLIENT4, PROXY4, b"\x01\x00"),
    "too long": header(CLIENT4, PROXY4, b"\x04" + (MOST_BYTES - 14).to_bytes(2, "big") + bytes(MOST_BYTES - 14)),
    "port 0": header(CLIENT4._replace(port=0), PROXY4),
    "the unspecified address": header(Endpoint(ip_address("0.0.0.0"), 1), PROXY4),
    "a multicast address": header(Endpoint(ip_address("224.0.0.1"), 1), PROXY4),
}


@pytest.mark.parametrize("name", REFUSED)
def test_all_else_is_refused(name: str) -> None:
    with pytest.raises(ProxyHeaderError):
        read(REFUSED[name])


@given(st.binary(min_size=PREFIX_BYTES, max_size=100), st.sampled_from((b"", SIGNATURE, SIGNATURE + b"\x21\x11\x00")))
def test_any_bytes_are_a_header_or_refused(data: bytes, begin: bytes) -> None:
    data = begin + data
    try:
        size = length_behind(data[:PREFIX_BYTES])
        assert size <= MOST_BYTES
        client_of(data[:PREFIX_BYTES], data[PREFIX_BYTES : PREFIX_BYTES + size])
    except ProxyHeaderError:
        pass
