"""What Firezone's programs asked upstream's relay, asked of ours: the same answers, and the same data carried on.

Requests are signed again with our nonces, and relayed ports, which both choose at random, are matched as they are
handed out; all else is compared as it stands: kind, attributes and their order, values, channel numbers, data.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final, TypeAlias

import pytest

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.phoenix import message as frames
from connectivity.stun import (
    Attribute,
    Message,
    Method,
    Nonce,
    Software,
    Username,
    XorPeerAddress,
    XorRelayedAddress,
    decode,
    encode,
)
from connectivity.turn.credentials import parse_username
from connectivity.wireguard import DATA, message_type
from relay.core import Output, Relayed, StampSecretCredentials, ToClient, ToPeer
from tests.interop import recordings
from tests.interop.recordings import RELAY_PORT, Datagram
from tests.programs import RECORDING_NAMES as NAMES
from tests.unit.relay.playbook import RelayUnderTest, datagrams

pytestmark = pytest.mark.recordings

Carried: TypeAlias = tuple[Endpoint, Endpoint, bytes]

PUBLIC: Final = {4: ip_address("172.28.0.3"), 6: ip_address("2001:db8:28::3")}
SOFTWARE: Final = "firezone-relay; rev=xxxx"
# A busy relay reads late, and its sockets in another order than the wire shows: here a peer's datagram and the
# ChannelBind that lets it in.
SAME_TIME_NS: Final = SECOND // 20


class Replay:
    """One life of a relay: ours is told what upstream's was told, and their words are compared."""

    def __init__(self, stamp_secret: str, began: int) -> None:
        self._relay = RelayUnderTest(
            public=dict(PUBLIC),
            software=SOFTWARE,
            source=StampSecretCredentials(stamp_secret),
            now=began,
            wall_now=began,
        )
        self._stamp_secret = stamp_secret
        self._nonces: dict[str, str] = {}  # ours by theirs
        self._ours: dict[int, int] = {}  # relayed ports
        self._theirs: dict[int, int] = {}
        self.answer_count = 0
        self.bound_at: defaultdict[Endpoint, list[int]] = defaultdict(list)  # when clients got channels
        self.carried: Counter[Carried] = Counter()  # with their ports

    def hear(self, datagram: Datagram, answer: Message | None) -> None:
        """A datagram to the relay and, for a request, what upstream's answered."""
        self._relay.advance((datagram.at - self._relay.now) / SECOND)
        local, sender = datagram.destination, datagram.source
        if local.port != RELAY_PORT:
            if local.port in self._ours:  # otherwise a port of the life before
                self._carry(self._relay.from_peer(self._ours[local.port], sender, datagram.payload))
            return
        if _is_stun(datagram.payload):
            if answer is not None:
                self._compare(self._relay.from_client(sender, self._signed(datagram.payload), server=local), answer)
                if answer.method == Method.CHANNEL_BIND:
                    self.bound_at[sender].append(datagram.at)
            return
        self._carry(self._relay.from_client(sender, datagram.payload, server=local))

    def _signed(self, payload: bytes) -> bytes:
        message = decode(payload)
        username = message.get(Username)
        claims = None if username is None else parse_username(username.value)
        key = claims.key(self._stamp_secret) if claims is not None and message.has_integrity else None
        attributes = tuple(map(self._as_ours, message.attributes))
        return encode(
            message.method,
            message.message_class,
            message.transaction_id,
            attributes,
            integrity_key=key,
            fingerprint=message.has_fingerprint,
        )

    def _compare(self, outputs: list[Relayed | Output], theirs: Message) -> None:
        (ours,) = [decode(output.transmit.run.data) for output in outputs if isinstance(output, ToClient)]
        said = theirs.attributes
        if theirs.method == Method.BINDING:  # a noted deviation: a stranger's answer is as short as can be
            said = tuple(attribute for attribute in said if not isinstance(attribute, Software))
        for one, other in zip(ours.attributes, said, strict=True):
            if isinstance(one, XorRelayedAddress) and isinstance(other, XorRelayedAddress):
                self._ours[other.endpoint.port] = one.endpoint.port
                self._theirs[one.endpoint.port] = other.endpoint.port
            elif isinstance(one, Nonce) and isinstance(other, Nonce):
                self._nonces[other.value] = one.value
        expected = tuple(map(self._as_ours, said))
        assert (ours.method, ours.message_class, ours.attributes) == (theirs.method, theirs.message_class, expected)
        assert ours.has_integrity == theirs.has_integrity
        assert ours.has_fingerprint == theirs.has_fingerprint
        self.answer_count += 1

    def _carry(self, outputs: list[Relayed | Output]) -> None:
        for output in outputs:
            match output:
                case ToClient(transmit):
                    assert transmit.source is not None
                    source, shown = transmit.source, transmit.source
                case ToPeer(port, transmit):
                    ip = PUBLIC[transmit.destination.ip.version]
                    source, shown = Endpoint(ip, port), Endpoint(ip, self._theirs[port])
                case _:
                    continue
            for data in datagrams(output):
                if transmit.destination.ip in PUBLIC.values():  # two clients of one relay
                    self._carry(self._relay.from_peer(transmit.destination.port, source, data))
                else:
                    self.carried[shown, transmit.destination, data] += 1

    def _as_ours(self, attribute: Attribute) -> Attribute:
        match attribute:
            case Nonce(value):
                return Nonce(self._nonces.get(value, value))
            case XorPeerAddress(endpoint) | XorRelayedAddress(endpoint) if endpoint.ip in PUBLIC.values():
                return type(attribute)(Endpoint(endpoint.ip, self._ours.get(endpoint.port, endpoint.port)))
            case _:
                return attribute


@pytest.mark.parametrize("name", NAMES)
def test_our_relay_says_and_carries_what_upstreams_did(name: str) -> None:
    answers = _answers(name)
    for began, ended, stamp_secret in _lives(name):
        heard = [entry for entry in recordings.datagrams(name) if began <= entry.at < ended]
        spoke_at = next(entry.at for entry in heard if entry.source.ip in PUBLIC.values())
        replay = Replay(stamp_secret, began)
        said: Counter[Carried] = Counter()
        said_at: dict[Carried, int] = {}
        for datagram in heard:
            answer = answers.get((datagram.source, datagram.payload[8:20]))
            if datagram.destination.ip in PUBLIC.values() and (answer is not None or datagram.at > spoke_at):
                replay.hear(datagram, answer)
            elif datagram.source.ip in PUBLIC.values() and not _is_answer(datagram):
                carried = datagram.source, datagram.destination, datagram.payload
                said[carried] += 1
                said_at[carried] = datagram.at
        assert replay.answer_count > 15
        assert said.total() > 100
        assert not replay.carried - said
        for carried in said - replay.carried:
            assert any(abs(said_at[carried] - at) < SAME_TIME_NS for at in replay.bound_at[carried[1]])


def _lives(name: str) -> Iterator[tuple[int, int, str]]:
    """When each relay process came and went, and the secret that it told the portal."""
    secrets = [
        frames.decode(text).payload["stamp_secret"]
        for conversation in recordings.conversations(name)
        if conversation.kind == "relay"
        for _, text in conversation.frames[:1]
    ]
    gone = [event.at for event in recordings.portal_events(name) if (event.kind, event.what) == ("relay", "gone")]
    began = [0, *gone]
    ended = [*gone, 1 << 62]
    return zip(began, ended, secrets, strict=True)


def _answers(name: str) -> dict[tuple[Endpoint, bytes], Message]:
    """By client and transaction id."""
    return {
        (datagram.destination, datagram.payload[8:20]): decode(datagram.payload)
        for datagram in recordings.datagrams(name)
        if _is_answer(datagram)
    }


def _is_answer(datagram: Datagram) -> bool:
    """A response of the relay itself, not one that it carries."""
    return datagram.source.port == RELAY_PORT and _is_stun(datagram.payload)


def _is_stun(payload: bytes) -> bool:
    return payload[0] <= DATA and message_type(payload) is None
