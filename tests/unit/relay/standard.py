"""A TURN client like the rest of the world's: a name, a password, any transport, all that RFC 8489 offers."""

from typing import Any

from connectivity.run import Run
from connectivity.stun import (
    Attribute,
    Message,
    MessageClass,
    Method,
    Nonce,
    PasswordAlgorithm,
    PasswordAlgorithms,
    Realm,
    Userhash,
    Username,
    encode,
    long_term_key,
    long_term_key_sha256,
    userhash,
)
from relay.core import FiveTuple, Output, Relayed, StaticCredentials, Transport
from tests.unit.relay.playbook import SERVER4, SERVER6, Client, RelayUnderTest, attribute_of, only_answer


def standalone(**fields: Any) -> RelayUnderTest:
    """A relay without a portal, where alice's password is ``secret``."""
    source = StaticCredentials({"alice": "secret"})
    usual: dict[str, Any] = {"under_portal": False, "realm": "example.org", "source": source}
    return RelayUnderTest(**(usual | fields))


class StandardClient(Client):
    """A client with a name and password, and the choices that RFC 8489 gives it.

    ``algorithm`` is the PASSWORD-ALGORITHM that it picks from what is offered, None to keep quiet about it;
    ``is_sha256`` signs with MESSAGE-INTEGRITY-SHA256; ``is_anonymous`` sends USERHASH.
    """

    def __init__(
        self,
        relay: RelayUnderTest,
        endpoint: str = "203.0.113.5:51000",
        *,
        username: str = "alice",
        password: str = "secret",
        transport: Transport = Transport.UDP,
        algorithm: int | None = None,
        is_sha256: bool = False,
        is_anonymous: bool = False,
    ) -> None:
        super().__init__(relay, endpoint, software="a browser")
        server = SERVER4 if self.endpoint.ip.version == 4 else SERVER6
        self.five_tuple = FiveTuple(self.endpoint, server, transport)
        self.username = username
        self.algorithm = algorithm
        self.is_sha256 = is_sha256
        self.is_anonymous = is_anonymous
        self.offered: PasswordAlgorithms | None = None
        derive = long_term_key_sha256 if algorithm == 2 else long_term_key
        self.key = derive(username, relay.realm, password)

    def learn(self, challenge: Message) -> None:
        """Take nonce and offer from a 401 or 438."""
        self.nonce = attribute_of(challenge, Nonce).value
        self.offered = challenge.get(PasswordAlgorithms)

    def request(self, method: Method, *attributes: Attribute, transaction_id: bytes | None = None) -> bytes:
        """A request, signed once there is a nonce."""
        identifier = transaction_id or self._entropy(12)
        if self.nonce is None:
            return encode(method, MessageClass.REQUEST, identifier, attributes)
        who: Attribute = Username(self.username)
        if self.is_anonymous:
            who = Userhash(userhash(self.username, self.relay.realm))
        block: list[Attribute] = [who, Realm(self.relay.realm), Nonce(self.nonce)]
        if self.algorithm is not None:
            block += [PasswordAlgorithm(self.algorithm), *([self.offered] if self.offered else [])]
        return encode(
            method,
            MessageClass.REQUEST,
            identifier,
            (*attributes, *block),
            integrity_key=None if self.is_sha256 else self.key,
            integrity_sha256_key=self.key if self.is_sha256 else None,
        )

    def send(self, data: bytes | Run, *, tos: int = 0) -> list[Relayed | Output]:
        """Bytes to the relay, as one datagram or one read of the connection."""
        if self.five_tuple.transport is Transport.UDP:
            return super().send(data, tos=tos)
        return self.relay.from_stream(self.five_tuple, bytes(data.data if isinstance(data, Run) else data))

    def call(self, method: Method, *attributes: Attribute) -> Message:
        """A request and its answer; learns the nonce first if there is none."""
        if self.nonce is None:
            self.learn(self.answer(self.request(method, *attributes)))
        return self.answer(self.request(method, *attributes))

    def answer(self, request: bytes) -> Message:
        """The answer to a request, signed if it is a success."""
        message = only_answer(self.send(request), self.endpoint)
        assert message.transaction_id == request[8:20]
        if message.message_class is MessageClass.SUCCESS and message.method != Method.BINDING:
            assert (message.has_integrity, message.has_integrity_sha256) == (not self.is_sha256, self.is_sha256)
            assert message.verify_integrity_sha256(self.key) if self.is_sha256 else message.verify_integrity(self.key)
        return message
