"""Writes the answers: SOFTWARE, what the handler said, MESSAGE-INTEGRITY(-SHA256), and FINGERPRINT if asked with one.

BINDING answers go to anybody, whatever address a request claims to come from. So that nobody's traffic is amplified
with them, they carry no SOFTWARE and no reason phrase: at most 1.5 times the bytes of the request, IP headers included.
"""

import logging
from collections import deque
from typing import Final

from connectivity.run import Run, Transmit
from connectivity.stun import Attribute, ErrorCodeAttribute, MessageClass, Method, Software, encode
from relay.core.outputs import FiveTuple, Output, ToClient
from relay.core.refusal import Refusal
from relay.core.signature import Signature
from relay.core.statistics import Statistics

_METHOD_LABELS: Final[dict[int, str]] = {
    Method.BINDING: "binding",
    Method.ALLOCATE: "allocate",
    Method.REFRESH: "refresh",
    Method.CREATE_PERMISSION: "createpermission",
    Method.CHANNEL_BIND: "channelbind",
}
_OTHER_METHOD: Final = "other"

_log = logging.getLogger("relay")


class Responder:
    """Encodes, counts and queues answers."""

    def __init__(self, software: str, outputs: deque[Output], statistics: Statistics) -> None:
        self._software = Software(software)
        self._outputs = outputs
        self._statistics = statistics

    def respond(
        self,
        five_tuple: FiveTuple,
        method: int,
        transaction_id: bytes,
        answer: tuple[Attribute, ...] | Refusal,
        signature: Signature | None,
        *,
        fingerprint: bool = False,
    ) -> bytes:
        """Queue an answer; returns its bytes."""
        label = _METHOD_LABELS.get(method, _OTHER_METHOD)
        is_brief = method == Method.BINDING
        attributes: tuple[Attribute, ...] = () if is_brief else (self._software,)
        if isinstance(answer, Refusal):
            message_class = MessageClass.ERROR
            error = ErrorCodeAttribute(answer.code, "" if is_brief else answer.reason)
            attributes = (*attributes, error, *answer.attributes)
            self._statistics.responses["error", label, int(answer.code)] += 1
            if answer.cause is not None:
                self._statistics.credential_refusals[answer.cause] += 1
        else:
            message_class = MessageClass.SUCCESS
            attributes = (*attributes, *answer)
            self._statistics.responses["success", label, 0] += 1
        if _log.isEnabledFor(logging.DEBUG):
            fields = {"method": label, "code": int(answer.code) if isinstance(answer, Refusal) else 0}
            cause = answer.cause if isinstance(answer, Refusal) else None
            reason = {} if cause is None else {"reason": cause.value}
            _log.debug("Answered", extra={"fields": fields | reason | {"client": five_tuple.client}})
        key = None if signature is None else signature.key
        is_sha256 = signature is not None and signature.is_sha256
        encoded = encode(
            method,
            message_class,
            transaction_id,
            attributes,
            integrity_key=None if is_sha256 else key,
            integrity_sha256_key=key if is_sha256 else None,
            fingerprint=fingerprint,
        )
        self.repeat(five_tuple, encoded)
        return encoded

    def repeat(self, five_tuple: FiveTuple, encoded: bytes) -> None:
        """Queue an answer that was given before."""
        transmit = Transmit(five_tuple.server, five_tuple.client, Run.single(encoded))
        self._outputs.append(ToClient(transmit, five_tuple.transport))
