"""Credential derivation against published values, and what counts as a username."""

import pytest

from connectivity.turn import credentials

SALT = "kF8o3vGOqsBa5vErLDRSdEr69ibaE0PVezlbVE4FGbY"
SECRET = "00112233445566778899aabbccddeeff" * 2


def test_the_chain_from_public_key_to_long_term_key() -> None:
    assert credentials.salt("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=") == SALT
    assert credentials.username(1893456000, SALT) == f"1893456000:{SALT}"
    assert credentials.password(1893456000, SECRET, SALT) == "/VP7bP2whqaMF4tnP1uq32bt0kgD/AmO5aw2beOS2n8"
    claims = credentials.parse_username(f"1893456000:{SALT}")
    assert claims == (1893456000, SALT)
    assert claims is not None
    assert claims.key(SECRET).hex() == "ea6bb11d527106439a1b6259778b344d"


def test_the_portals_vector() -> None:
    salt = credentials.salt("test_public_key")
    assert credentials.username(1696118400, salt) == "1696118400:5d9CsB7vot2KRIXMGXivBcgmjnW0ClvN5q/DxOeFotA"
    assert credentials.password(1696118400, "test_secret", salt) == "+dkKyS/Rl06h5jatgTWfKcZoeDxEmT+TfsrH4x4cddA"


def test_a_credential_is_good_through_its_last_second() -> None:
    claims = credentials.Claims(100, "salt")
    assert not claims.is_expired(100)
    assert claims.is_expired(101)


@pytest.mark.parametrize("text", ["0:", "18446744073709551615:salt", "7:a b"])
def test_usernames(text: str) -> None:
    claims = credentials.parse_username(text)
    assert claims is not None
    assert credentials.username(claims.expiry, claims.salt) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":salt",
        "1",
        "1:a:b",
        "-1:a",
        "+1:a",
        " 1:a",
        "01:a",
        "1_0:a",
        "\u0661:a",
        "18446744073709551616:a",
        "9" * 5000 + ":a",
    ],
)
def test_not_usernames(text: str) -> None:
    assert credentials.parse_username(text) is None
