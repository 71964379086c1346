"""Where passwords come from: TURN's REST interface, a list, both; and what names and passwords may look like."""

import pytest

from connectivity.clock import SECOND
from connectivity.stun import userhash
from relay.core import CombinedCredentials, RestCredentials, StaticCredentials
from relay.core.credentials import opaque_string


def test_rest_passwords_are_an_hmac_of_the_name() -> None:
    """The value is what ``openssl dgst -sha1 -hmac north -binary | base64`` prints."""
    (found,) = RestCredentials(["north"]).lookup("1433895918:bob")
    assert found.password == "+qCJxktJhPsEAA0wfh7NCKO+G0M="
    assert (found.username, found.user, found.expires_at) == ("1433895918:bob", "bob", 1433895918)
    assert not found.is_expired(1433895918 * SECOND)
    assert found.is_expired(1433895919 * SECOND)


@pytest.mark.parametrize(
    ("username", "user"),
    [
        ("1700000000:bob", "bob"),
        ("1700000000:a:b", "a:b"),
        ("1700000000", "1700000000"),
        ("1700000000:", "1700000000:"),
    ],
)
def test_the_user_of_a_rest_name_stands_behind_the_colon(username: str, user: str) -> None:
    assert {found.user for found in RestCredentials(["one", "two"]).lookup(username)} == {user}


@pytest.mark.parametrize("username", ["", "bob", ":bob", "-1:bob", "1e9:bob", "٣:bob", "9" * 21 + ":bob", " 1:bob"])
def test_other_names_are_nobodys(username: str) -> None:
    assert RestCredentials(["secret"]).lookup(username) == ()


def test_each_secret_counts_the_current_one_first() -> None:
    current, previous = RestCredentials(["current", "previous"]).lookup("1:x")
    assert (current,) == RestCredentials(["current"]).lookup("1:x")
    assert (previous,) == RestCredentials(["previous"]).lookup("1:x")


def test_listed_users_are_found_by_name_and_by_hash() -> None:
    source = StaticCredentials({"alice": "secret", "bob": "other"})
    (bob,) = source.lookup("bob")
    assert (bob.password, bob.expires_at, bob.user) == ("other", None, "bob")
    assert source.lookup("mallory") == ()
    for realm in ("example.org", "example.com"):
        assert source.by_userhash(userhash("bob", realm), realm) == bob
    assert source.by_userhash(userhash("bob", "example.com"), "example.org") is None


def test_a_listed_user_hides_a_time_limited_name() -> None:
    source = CombinedCredentials(StaticCredentials({"1:x": "listed"}), RestCredentials(["secret"]))
    assert [found.password for found in source.lookup("1:x")] == ["listed"]
    assert len(source.lookup("1:y")) == 1
    assert source.by_userhash(userhash("1:x", "r"), "r") is not None


def test_no_secret_shows_in_repr() -> None:
    (found,) = StaticCredentials({"alice": "hunter2"}).lookup("alice")
    assert "hunter2" not in repr(found)
    assert "hunter2" not in repr(StaticCredentials({"alice": "hunter2"}))
    assert "north" not in repr(RestCredentials(["north"]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("secret", "secret"),
        ("a\u00a0b\u3000c", "a b c"),  # spaces of other alphabets
        ("e\u0301", "é"),  # NFC
        ("\ufb01", "\ufb01"),  # not NFKC: compatibility characters stay
        ("TheMatrIX", "TheMatrIX"),
        ("\u30de\u30c8\u30ea\u30c3\u30af\u30b9", "\u30de\u30c8\u30ea\u30c3\u30af\u30b9"),
        ("Ж ☺ 1 €", "Ж ☺ 1 €"),
    ],
)
def test_opaque_strings(text: str, expected: str) -> None:
    assert opaque_string(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a\tb", "a\x00b", "soft\u00adhyphen", "\ud800", "private\ue000", "\u200b", "a\nb"]
)
def test_what_is_no_opaque_string_is_refused_without_telling_the_password(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        opaque_string(text)
    with pytest.raises(ValueError, match="alice") as refused:
        StaticCredentials({"alice": text})
    assert not text or text not in str(refused.value)
