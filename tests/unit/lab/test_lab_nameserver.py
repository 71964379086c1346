"""The lab's name server: knows its names, denies the others, ignores what is no query."""

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.nameserver import answer
from lab.plan import RESOURCE


def ask(name: str, kind: str) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    found = answer(query.to_wire())
    assert found is not None
    said = dns.message.from_wire(found)
    assert query.is_response(said)
    assert said.flags & dns.flags.RA
    return said


@pytest.mark.parametrize(
    ("name", "kind", "record"),
    [
        ("App.internal.", "A", RESOURCE.address),
        ("app.internal.", "AAAA", RESOURCE.address6),
        ("app.internal.", "TXT", '"the resource behind the gateway"'),
        ("_http._tcp.app.internal.", "SRV", "0 0 80 app.internal."),
    ],
)
def test_known_names_have_their_records(name: str, kind: str, record: str) -> None:
    (records,) = ask(name, kind).answer
    assert [each.to_text() for each in records] == [record]


def test_known_name_of_another_type_exists_but_is_empty() -> None:
    said = ask("app.internal.", "MX")
    assert (said.rcode(), said.answer) == (dns.rcode.NOERROR, [])


def test_unknown_name_is_denied() -> None:
    assert ask("example.org.", "A").rcode() == dns.rcode.NXDOMAIN


@given(st.binary(max_size=64))
def test_any_bytes_are_answered_or_ignored(data: bytes) -> None:
    found = answer(data)
    assert found is None or found[:2] == data[:2]
