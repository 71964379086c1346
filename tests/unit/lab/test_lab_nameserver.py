"""The lab's name server: knows its names, denies the others, ignores what is no query."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from lab.nameserver import answer
from lab.plan import RESOURCE


def query(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", 77, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def test_known_name_has_both_families() -> None:
    for kind, packed in ((1, RESOURCE.ipv4.ip.packed), (28, RESOURCE.ipv6.ip.packed)):
        found = answer(query("App.lab", kind))
        assert found is not None
        assert found.endswith(packed)
        assert struct.unpack_from("!HHHH", found) == (77, 0x8580, 1, 1)


def test_known_name_of_another_type_exists_but_is_empty() -> None:
    found = answer(query("app.lab", 16))
    assert found is not None
    assert struct.unpack_from("!HHHH", found) == (77, 0x8580, 1, 0)


def test_unknown_name_is_denied() -> None:
    found = answer(query("example.org", 1))
    assert found is not None
    assert found[3] & 0x0F == 3


@given(st.binary(max_size=64))
def test_any_bytes_are_answered_or_ignored(data: bytes) -> None:
    found = answer(data)
    assert found is None or found[:2] == data[:2]
