"""The STUN messages that two agents exchange (RFC 8445 §7, §16.1) and which of them are meant for us.

Only BINDING requests and their success responses are sent. Role conflicts are not resolved and no error response is
made, as peers expect: roles are fixed by who connects to whom. FINGERPRINT is sent, but neither demanded nor checked
on receipt; MESSAGE-INTEGRITY is what counts.
"""

from connectivity.endpoint import Endpoint
from connectivity.ice.credentials import IceCredentials
from connectivity.stun import (
    Attribute,
    IceControlled,
    IceControlling,
    Message,
    MessageClass,
    Method,
    Priority,
    UseCandidate,
    Username,
    XorMappedAddress,
    encode,
)


def encode_check(
    transaction_id: bytes,
    *,
    local: IceCredentials,
    remote: IceCredentials,
    role: IceControlling | IceControlled,
    priority: int,
    nominate: bool,
) -> bytes:
    """A connectivity check (RFC 8445 §7.2.2)."""
    username = Username(f"{remote.username}:{local.username}")
    attributes: list[Attribute] = [username, role, Priority(priority)]
    if nominate:
        attributes.append(UseCandidate())
    return encode(
        Method.BINDING,
        MessageClass.REQUEST,
        transaction_id,
        attributes,
        integrity_key=remote.password.encode(),
        fingerprint=True,
    )


def encode_answer(check: Message, source: Endpoint, local: IceCredentials) -> bytes:
    """The success response to a check that came from ``source`` (RFC 8445 §7.3.1.2)."""
    return encode(
        Method.BINDING,
        MessageClass.SUCCESS,
        check.transaction_id,
        [XorMappedAddress(source)],
        integrity_key=local.password.encode(),
        fingerprint=True,
    )


def is_check_for(message: Message, local: IceCredentials, remote: IceCredentials) -> bool:
    """Whether this is a request or indication of exactly our peer to us, complete and authentic."""
    username = message.get(Username)
    return (
        message.method == Method.BINDING
        and message.message_class in (MessageClass.REQUEST, MessageClass.INDICATION)
        and not message.unknown_required  # RFC 8489 §6.3.1: not to be processed, and errors are not sent here
        and username is not None
        and username.value == f"{local.username}:{remote.username}"
        and (message.message_class == MessageClass.INDICATION or message.get(Priority) is not None)
        and message.verify_integrity(local.password.encode())
    )


def is_answer_of(message: Message, remote: IceCredentials) -> bool:
    """Whether this is a success response of our peer, complete and authentic. The transaction is not looked at."""
    return (
        message.method == Method.BINDING
        and message.message_class == MessageClass.SUCCESS
        and not message.unknown_required
        and message.get(XorMappedAddress) is not None
        and message.verify_integrity(remote.password.encode())
    )
