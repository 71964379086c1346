"""The Noise layer against public vectors of Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from connectivity.key_pair import KeyPair
from connectivity.wireguard.noise import FirstMessage, Initiator, NoiseError, Responder, SecondMessage

VECTORS = Path(__file__).parents[2] / "vectors" / "wireguard_noise_ikpsk2.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text())["vectors"]


@pytest.fixture(params=CASES, ids=lambda case: case["handshake_hash"][:8])
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


def test_both_sides_produce_the_bytes_of_the_vector(case: dict[str, Any]) -> None:
    initiator, responder = sides(case)
    first, second = (bytes.fromhex(message["ciphertext"]) for message in case["messages"][:2])
    first_payload, second_payload = (bytes.fromhex(message["payload"]) for message in case["messages"][:2])

    assert b"".join(initiator.write(first_payload)) == first
    opened = split_first(first)
    assert responder.read_static(opened.ephemeral, opened.encrypted_static) == static(case, "init").public
    assert responder.read_payload(opened.encrypted_payload) == first_payload

    answer, responder_keys = responder.write(
        ephemeral=ephemeral(case, "resp"), preshared_key=preshared_key(case), payload=second_payload
    )
    assert b"".join(answer) == second
    payload, initiator_keys = initiator.read(SecondMessage(second[:32], second[32:]))
    assert payload == second_payload

    assert initiator.handshake_hash == responder.handshake_hash == bytes.fromhex(case["handshake_hash"])
    assert initiator_keys.send == responder_keys.receive
    assert initiator_keys.receive == responder_keys.send
    for number, message in enumerate(case["messages"][2:]):
        key = initiator_keys.send if number % 2 == 0 else initiator_keys.receive
        nonce = bytes(4) + (number // 2).to_bytes(8, "little")
        sealed = ChaCha20Poly1305(key).encrypt(nonce, bytes.fromhex(message["payload"]), None)
        assert sealed.hex() == message["ciphertext"]


def test_a_forged_response_leaves_the_initiator_able_to_read_the_real_one(case: dict[str, Any]) -> None:
    initiator, _ = sides(case)
    initiator.write(bytes.fromhex(case["messages"][0]["payload"]))
    second = bytes.fromhex(case["messages"][1]["ciphertext"])
    forged = second[:-1] + bytes([second[-1] ^ 1])
    with pytest.raises(NoiseError, match="authenticate"):
        initiator.read(SecondMessage(forged[:32], forged[32:]))
    payload, _ = initiator.read(SecondMessage(second[:32], second[32:]))
    assert payload.hex() == case["messages"][1]["payload"]


def test_another_preshared_key_fails_only_in_the_second_message(case: dict[str, Any]) -> None:
    initiator, responder = sides(case)
    first = initiator.write(b"")
    responder.read_static(first.ephemeral, first.encrypted_static)
    assert responder.read_payload(first.encrypted_payload) == b""
    answer, _ = responder.write(ephemeral=ephemeral(case, "resp"), preshared_key=bytes(32), payload=b"")
    with pytest.raises(NoiseError, match="authenticate"):
        initiator.read(answer)


def test_a_point_of_low_order_is_refused(case: dict[str, Any]) -> None:
    _, responder = sides(case)
    with pytest.raises(NoiseError, match="unusable"):
        responder.read_static(bytes(32), bytes(48))


def test_transport_keys_do_not_show_themselves(case: dict[str, Any]) -> None:
    initiator, _ = sides(case)
    initiator.write(bytes.fromhex(case["messages"][0]["payload"]))
    second = bytes.fromhex(case["messages"][1]["ciphertext"])
    _, keys = initiator.read(SecondMessage(second[:32], second[32:]))
    assert keys.send.hex() not in repr(keys)
    assert repr(keys.send) not in repr(keys)


def sides(case: dict[str, Any]) -> tuple[Initiator, Responder]:
    initiator = Initiator(
        static=static(case, "init"),
        ephemeral=ephemeral(case, "init"),
        remote_static=bytes.fromhex(case["init_remote_static"]),
        preshared_key=preshared_key(case),
        prologue=bytes.fromhex(case["init_prologue"]),
    )
    return initiator, Responder(static=static(case, "resp"), prologue=bytes.fromhex(case["resp_prologue"]))


def static(case: dict[str, Any], side: str) -> KeyPair:
    return KeyPair.from_private(bytes.fromhex(case[f"{side}_static"]))


def ephemeral(case: dict[str, Any], side: str) -> KeyPair:
    return KeyPair.from_private(bytes.fromhex(case[f"{side}_ephemeral"]))


def preshared_key(case: dict[str, Any]) -> bytes:
    return bytes.fromhex(case["init_psks"][0])


def split_first(message: bytes) -> FirstMessage:
    return FirstMessage(message[:32], message[32:80], message[80:])
