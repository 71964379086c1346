"""WireGuard's use of the Noise handshake: prologue, timestamp payload, indices and MACs (WireGuard paper, section 5.4).

A ``Handshakes`` object makes and reads the handshake messages of one tunnel. It keeps up to two initiations of ours
(the last and the one before), so that a late response to the earlier one still counts, and the highest timestamp of the
peer, so that a replayed initiation does not. It knows no timers and stores no session.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from connectivity.clock import SECOND, Duration, Instant, WallTime
from connectivity.key_pair import KeyPair
from connectivity.wireguard import cookie
from connectivity.wireguard.errors import HandshakeError, HandshakeReason
from connectivity.wireguard.index import IndexSequence
from connectivity.wireguard.messages import CookieReply, Initiation, Response
from connectivity.wireguard.noise import Initiator, NoiseError, Responder, SecondMessage, TransportKeys
from connectivity.wireguard.tai64n import TimestampClock

PROLOGUE: Final = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
_OUTSTANDING_LIMIT: Final = 2
# A response that was held back for longer would give a session whose other half is old or gone.
_OUTSTANDING_LIFETIME: Final[Duration] = 15 * SECOND


class Established(NamedTuple):
    """What a finished handshake leaves: keys, our index and the peer's."""

    keys: TransportKeys
    local_index: int
    remote_index: int


class _Outstanding(NamedTuple):
    initiator: Initiator
    expires_at: Instant


class Handshakes:
    """The handshakes of one tunnel, in both roles."""

    def __init__(
        self,
        *,
        keys: KeyPair,
        peer_public_key: bytes,
        preshared_key: bytes,
        connection_index: int,
        rng: Callable[[int], bytes],
    ) -> None:
        self._keys = keys
        self._peer_public_key = peer_public_key
        self._preshared_key = preshared_key
        self._rng = rng
        self._indices = IndexSequence(connection_index)
        self._stamper = cookie.Stamper(peer_public_key)
        self._clock = TimestampClock()
        self._peer_timestamp = b""
        self._outstanding: dict[int, _Outstanding] = {}  # by our index, oldest first

    def initiate(self, now: Instant, wall_now: WallTime) -> bytes:
        """A new initiation."""
        index = self._indices.next()
        initiator = Initiator(
            static=self._keys,
            ephemeral=KeyPair.generate(self._rng),
            remote_static=self._peer_public_key,
            preshared_key=self._preshared_key,
            prologue=PROLOGUE,
        )
        message = Initiation(index, *initiator.write(self._clock.next(wall_now)))
        self._outstanding[index] = _Outstanding(initiator, now + _OUTSTANDING_LIFETIME)
        while len(self._outstanding) > _OUTSTANDING_LIMIT:
            del self._outstanding[next(iter(self._outstanding))]
        return self._stamper.stamp(message.body(), now)

    def respond(self, data: bytes, now: Instant) -> tuple[bytes, Established]:
        """The response to an initiation whose MACs have been checked.

        Raises:
            HandshakeError: of another peer, not authentic, or its timestamp is not higher than the last.
        """
        message = Initiation.decode(data)
        responder = Responder(static=self._keys, prologue=PROLOGUE)
        try:
            static = responder.read_static(message.ephemeral, message.encrypted_static)
            if static != self._peer_public_key:
                raise HandshakeError(HandshakeReason.WRONG_PEER)
            timestamp = responder.read_payload(message.encrypted_timestamp)
            if timestamp <= self._peer_timestamp:
                raise HandshakeError(HandshakeReason.STALE_TIMESTAMP)
            second, keys = responder.write(
                ephemeral=KeyPair.generate(self._rng), preshared_key=self._preshared_key, payload=b""
            )
        except NoiseError as error:
            raise HandshakeError(HandshakeReason.NOT_AUTHENTIC) from error
        self._peer_timestamp = timestamp
        index = self._indices.next()
        response = Response(index, message.sender, *second)
        return self._stamper.stamp(response.body(), now), Established(keys, index, message.sender)

    def finish(self, data: bytes, now: Instant) -> Established:
        """The outcome of a response whose MACs have been checked.

        Raises:
            HandshakeError: it answers none of our initiations, or is not authentic.
        """
        message = Response.decode(data)
        outstanding = self._outstanding.get(message.receiver)
        if outstanding is None or now >= outstanding.expires_at:
            raise HandshakeError(HandshakeReason.UNKNOWN_INDEX)
        try:
            _, keys = outstanding.initiator.read(SecondMessage(message.ephemeral, message.encrypted_nothing))
        except NoiseError as error:
            raise HandshakeError(HandshakeReason.NOT_AUTHENTIC) from error
        # Earlier initiations are settled with it; a later one may still be answered.
        for index in list(self._outstanding):
            del self._outstanding[index]
            if index == message.receiver:
                break
        return Established(keys, message.receiver, message.sender)

    def take_cookie(self, data: bytes, now: Instant) -> None:
        """Keep the cookie of a cookie reply.

        Raises:
            HandshakeError: it answers none of our messages, or is not authentic.
        """
        self._stamper.handle_reply(CookieReply.decode(data), now)


def read_initiator(keys: KeyPair, initiation: bytes | memoryview) -> bytes:
    """The static public key that an initiation to ``keys`` claims; mac1 is checked before anything is computed.

    Raises:
        HandshakeError: not an initiation, wrong mac1, or it does not decrypt.
    """
    message = Initiation.decode(initiation)
    cookie.check_mac1(cookie.mac1_key(keys.public), bytes(initiation))
    try:
        return Responder(static=keys, prologue=PROLOGUE).read_static(message.ephemeral, message.encrypted_static)
    except NoiseError as error:
        raise HandshakeError(HandshakeReason.NOT_AUTHENTIC) from error
