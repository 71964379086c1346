"""The resource's bytes are the same every time, whatever their number."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from lab.resource import payload, payload_sha256


@given(st.integers(min_value=0, max_value=3 << 20))
def test_payload_has_its_length_and_checksum(length: int) -> None:
    whole = b"".join(payload(length))
    assert len(whole) == length
    assert hashlib.sha256(whole).hexdigest() == payload_sha256(length)


def test_blocks_differ() -> None:
    first, second = payload(2 << 20)
    assert first != second
