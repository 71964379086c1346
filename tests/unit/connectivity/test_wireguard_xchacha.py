"""HChaCha20 and XChaCha20-Poly1305 against draft-irtf-cfrg-xchacha-03, sections 2.2.1 and A.3.1."""

import pytest
from cryptography.exceptions import InvalidTag

from connectivity.wireguard.xchacha import decrypt, encrypt, hchacha20

KEY = bytes(range(0x80, 0xA0))
NONCE = bytes(range(0x40, 0x58))
ASSOCIATED = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
PLAINTEXT = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip "
    b"for the future, sunscreen would be it."
)
CIPHERTEXT = bytes.fromhex(
    "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b7"
    "2e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff921f9664c97637da9768812f615c68b13b52e"
)
TAG = bytes.fromhex("c0875924c1c7987947deafd8780acf49")


def test_subkey_of_the_draft() -> None:
    nonce = bytes.fromhex("000000090000004a0000000031415927")
    subkey = hchacha20(bytes(range(32)), nonce)
    assert subkey.hex() == "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"


def test_aead_of_the_draft() -> None:
    assert encrypt(KEY, NONCE, PLAINTEXT, ASSOCIATED) == CIPHERTEXT + TAG
    assert decrypt(KEY, NONCE, CIPHERTEXT + TAG, ASSOCIATED) == PLAINTEXT


@pytest.mark.parametrize("position", [0, len(CIPHERTEXT), len(CIPHERTEXT) + 15])
def test_a_changed_bit_is_not_authentic(position: int) -> None:
    message = bytearray(CIPHERTEXT + TAG)
    message[position] ^= 1
    with pytest.raises(InvalidTag):
        decrypt(KEY, NONCE, bytes(message), ASSOCIATED)


def test_associated_data_and_all_of_the_nonce_count() -> None:
    with pytest.raises(InvalidTag):
        decrypt(KEY, NONCE, CIPHERTEXT + TAG, b"")
    for position in range(len(NONCE)):
        nonce = bytearray(NONCE)
        nonce[position] ^= 1
        with pytest.raises(InvalidTag):
            decrypt(KEY, bytes(nonce), CIPHERTEXT + TAG, ASSOCIATED)
