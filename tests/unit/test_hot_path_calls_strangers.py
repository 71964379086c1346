"""What a datagram for nobody costs, without a clock: how many functions are called, and that no error is worded.

Whoever knows our port can send these as quickly as the line carries them. What lies together and is alike is counted
at once, however much it is.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import NoReturn

import pytest

from bench.scale_stage import BULK, Stage
from bench.tunnel_price import count_calls
from connectivity.endpoint import Endpoint
from connectivity.io.refusals import Refusals
from connectivity.run import Run

BYTES = 1200
MANY = 32


@dataclass(frozen=True, slots=True)
class Kind:
    """``most`` is of one datagram; of a run of such, of each if ``differs``, else of all together."""

    head: bytes
    reason: str
    differs: bool
    most: int


KINDS = {
    "one session that is unknown": Kind(b"\4\0\0\0\1\2\3\4", "unknown_connection", differs=False, most=50),
    "many sessions": Kind(b"\4\0\0\0", "unknown_connection", differs=True, most=36),
    "one kind of noise": Kind(b"\xee" * 8, "stray_datagram", differs=False, most=50),
    "noise": Kind(b"\xee", "stray_datagram", differs=True, most=36),
}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    logging.disable(logging.INFO)
    yield Stage(1)
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("count", [1, 7, MANY])
def test_datagrams_for_nobody_are_counted_and_cost_little(
    stage: Stage, kind: Kind, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random, refusals = Random(7), Refusals()
    monkeypatch.setattr(Endpoint, "__str__", lambda _: _never())
    datagrams = (kind.head + random.randbytes(BYTES - len(kind.head)) for _ in range(count))
    run = Run(memoryview(bytearray(b"".join(datagrams))), BYTES)
    (client,) = stage.clients
    received = stage.from_client(client, bytes(BULK))._replace(run=run)

    def take() -> None:
        errors: list[Exception] = []
        stage.core.handle_datagrams(received, stage.now, stage.wall_now, lambda _: _never(), errors)
        for error in errors:
            refusals.note(error, stage.now)

    take()
    calls = count_calls(take)
    assert refusals.counts == {kind.reason: 2 * count}
    assert calls <= (kind.most * count if kind.differs else kind.most)


def _never() -> NoReturn:
    raise AssertionError("the host gets nothing, and nobody asks whom it came from")
