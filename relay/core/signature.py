"""How an answer is signed: with the key and the algorithm of its request (RFC 8489 §9.2.4)."""

from dataclasses import dataclass

from connectivity.stun import Message


@dataclass(frozen=True, slots=True)
class Signature:
    """MESSAGE-INTEGRITY-SHA256 where ``is_sha256``, else MESSAGE-INTEGRITY."""

    key: bytes
    is_sha256: bool = False

    def __repr__(self) -> str:
        return "Signature(hidden)"

    def is_of(self, message: Message) -> bool:
        """Whether the message is signed like this."""
        return message.verify_integrity_sha256(self.key) if self.is_sha256 else message.verify_integrity(self.key)
