"""Everything that Firezone's programs of both generations said decodes: datagrams, frames, messages, log-ins."""

from collections import Counter
from typing import Any, Final

import pytest

from client.core import ClientCore
from connectivity.ice import candidate
from connectivity.phoenix import message as frames
from connectivity.portal.values import MessageError
from connectivity.stun import Method, decode, encode
from connectivity.tunnel import TunnelCore
from connectivity.turn import channel_data
from connectivity.wireguard import DATA, INITIATION, RESPONSE, KeyPair, message_type
from gateway.core import GatewayCore
from tests.interop import recordings
from tests.interop.recordings import RELAY_PORT, Datagram
from tests.programs import RECORDING_NAMES as NAMES
from tests.unit.relay.playbook import Entropy

pytestmark = pytest.mark.recordings

TURN: Final = {Method.ALLOCATE, Method.REFRESH, Method.CHANNEL_BIND}
INTEGRITY_BYTES: Final = 24  # the attributes with their headers
FINGERPRINT_BYTES: Final = 8
DNS_REFUSAL: Final = "resources of type 'dns' are not served"


def kind_of(payload: bytes | memoryview) -> str:
    """What a datagram is: the name of its protocol and message. Raises for what is none of ours."""
    if payload[0] <= DATA:
        number = message_type(payload)
        if number is None:
            message = decode(payload)
            return f"stun {Method(message.method).name} {message.message_class.name}"
        return f"wireguard {number}"
    _, content = channel_data.decode(payload)
    return f"channel {kind_of(content)}"


@pytest.mark.parametrize("name", NAMES)
def test_every_datagram_is_stun_channel_data_or_wireguard(name: str) -> None:
    kinds = Counter(kind_of(datagram.payload) for datagram in recordings.datagrams(name))
    for method in TURN:  # each recording has all that is named here, so nothing was read past
        assert kinds[f"stun {method.name} REQUEST"] >= kinds[f"stun {method.name} SUCCESS"] > 0
    assert kinds["stun BINDING SUCCESS"]
    way = "channel wireguard" if name.endswith("relayed") else "wireguard"
    assert all(kinds[f"{way} {number}"] for number in (INITIATION, RESPONSE, DATA))


@pytest.mark.parametrize("name", NAMES)
def test_every_stun_message_is_the_same_bytes_when_we_write_it(name: str) -> None:
    """All but the values of the checks at its end, whose keys are not ours."""
    count = 0
    for datagram in recordings.datagrams(name):
        for payload in (datagram.payload, _inner(datagram)):
            if payload is None or payload[0] > DATA or message_type(payload) is not None:
                continue
            message = decode(payload)
            assert not message.unknown_required
            written = encode(
                message.method,
                message.message_class,
                message.transaction_id,
                message.attributes,
                integrity_key=bytes(16) if message.has_integrity else None,
                fingerprint=message.has_fingerprint,
            )
            checks = INTEGRITY_BYTES * message.has_integrity + FINGERPRINT_BYTES * message.has_fingerprint
            assert len(written) == len(payload)
            assert written[: len(written) - checks] == payload[: len(payload) - checks]
            count += 1
    assert count > 500


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_is_a_phoenix_message(name: str) -> None:
    counts: Counter[str] = Counter()
    for conversation in recordings.conversations(name):
        assert conversation.headers["upgrade"] == "websocket"
        for _, text in conversation.frames:
            counts[frames.decode(text).event] += 1
    assert counts["phx_join"] == 6
    assert counts["phx_reply"] >= 6
    events = Counter(event.event for event in recordings.portal_events(name) if event.what in {"from", "to"})
    assert all(counts[event] == number for event, number in events.items())


@pytest.mark.parametrize("name", NAMES)
def test_every_candidate_is_one(name: str) -> None:
    """Ours, written again, is the same text but for the tail that names the session."""
    texts = [
        text
        for event in recordings.portal_events(name)
        if isinstance(event.payload, dict)
        for text in event.payload.get("candidates", ())
    ]
    assert len(texts) > 40
    for text in texts:
        parsed = candidate.parse(text)
        ufrag = f" ufrag {text.rpartition(' ufrag ')[2]}" if " ufrag " in text else ""
        assert parsed.to_text().removesuffix(ufrag) + ufrag == text


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("2025")])
def test_our_client_and_gateway_take_what_their_portal_told_upstreams(name: str) -> None:
    """All but DNS resources, which they do not serve yet."""
    cores: dict[str, TunnelCore] = {}
    refused = []
    for event in recordings.portal_events(name):
        now = event.at
        if event.what == "connect" and event.kind != "relay":
            cores[event.kind] = _core(event.kind, now)
        elif event.what == "to" and event.kind != "relay":
            core = cores[event.kind]
            try:
                core.handle_portal(event.event, event.payload, now, now)
            except MessageError as error:
                refused.append(str(error))
            _drain(core)
    assert set(refused) <= {DNS_REFUSAL}


def _core(kind: str, now: int) -> TunnelCore:
    keys, rng = KeyPair.generate(Entropy()), Entropy(2)
    return ClientCore(keys=keys, rng=rng) if kind == "client" else GatewayCore(keys=keys, rng=rng, now=now)


def _drain(core: TunnelCore) -> list[Any]:
    actions: list[Any] = []
    while (action := core.poll_action()) is not None:
        actions.append(action)
    while core.poll_transmit() is not None:
        pass
    return actions


def _inner(datagram: Datagram) -> memoryview | None:
    """What a channel carries."""
    if datagram.payload[0] <= DATA or RELAY_PORT not in (datagram.source.port, datagram.destination.port):
        return None
    return channel_data.decode(datagram.payload)[1]
