"""Writes the answers: SOFTWARE, what the handler said, MESSAGE-INTEGRITY, and FINGERPRINT if the request had one.

BINDING answers are never signed; every other one is when the requester's key is known, errors too.
"""

import logging
from collections import deque
from typing import Final

from connectivity.run import Run, Transmit
from connectivity.stun import Attribute, ErrorCodeAttribute, MessageClass, Method, Software, encode
from relay.core.outputs import FiveTuple, Output, ToClient
from relay.core.refusal import Refusal
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
        key: bytes | None,
        *,
        fingerprint: bool = False,
    ) -> bytes:
        """Queue an answer; returns its bytes."""
        label = _METHOD_LABELS.get(method, _OTHER_METHOD)
        attributes: tuple[Attribute, ...]
        if isinstance(answer, Refusal):
            message_class = MessageClass.ERROR
            attributes = (self._software, ErrorCodeAttribute(answer.code, answer.reason), *answer.attributes)
            self._statistics.responses["error", label, int(answer.code)] += 1
        else:
            message_class = MessageClass.SUCCESS
            attributes = (self._software, *answer)
            self._statistics.responses["success", label, 0] += 1
        if _log.isEnabledFor(logging.DEBUG):
            fields = {"method": label, "code": int(answer.code) if isinstance(answer, Refusal) else 0}
            _log.debug("Answered", extra={"fields": fields | {"client": five_tuple.client}})
        encoded = encode(method, message_class, transaction_id, attributes, integrity_key=key, fingerprint=fingerprint)
        self.repeat(five_tuple, encoded)
        return encoded

    def repeat(self, five_tuple: FiveTuple, encoded: bytes) -> None:
        """Queue an answer that was given before."""
        self._outputs.append(ToClient(Transmit(five_tuple.server, five_tuple.client, Run.single(encoded))))
