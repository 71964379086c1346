"""Budgets of handshake messages: peers by ICE, senders with a cookie, strangers; and what a flood may cost."""

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint, IPAddress
from connectivity.wireguard import HandshakeError, HandshakeReason, KeyPair, RateLimiter
from connectivity.wireguard.cookie import Stamper, Verifier
from connectivity.wireguard.limiter import (
    KNOWN_LIMIT,
    LIMIT,
    PROVEN_ADDRESS_LIMIT,
    PROVEN_LIMIT,
    REPLY_LIMIT,
    REPLY_NETWORK_LIMIT,
)
from connectivity.wireguard.messages import CookieReply, Initiation
from tests.unit.connectivity.wireguard_pair import stream

PUBLIC = KeyPair.generate(stream(b"receiver")).public
BODY = Initiation(7, b"e" * 32, b"s" * 48, b"t" * 28).body()


def address(number: int) -> IPAddress:
    """Each in a network of its own."""
    return ip_address((10 << 24) + (number << 8) + 1)


def make() -> tuple[RateLimiter, bytes]:
    return RateLimiter(PUBLIC, stream(b"rng")), Stamper(PUBLIC).stamp(BODY, 0)


def outcome(limiter: RateLimiter, message: bytes, source: IPAddress, now: int, known: Endpoint | None = None) -> str:
    try:
        reply = limiter.admit(message, source, now, known=known)
    except HandshakeError as error:
        return "dropped" if error.reason is HandshakeReason.UNDER_LOAD and error.reply is None else str(error)
    return "let in" if reply is None else "cookie"


def outcomes(count: int, ask: Callable[[int], str]) -> dict[str, int]:
    found = [ask(number) for number in range(count)]
    return {what: found.count(what) for what in dict.fromkeys(found)}


def test_a_flood_costs_few_cookies_and_then_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter, message = make()
    found = outcomes(10_000, lambda number: outcome(limiter, message, address(number), 5))
    assert found == {"let in": LIMIT, "cookie": REPLY_LIMIT, "dropped": 10_000 - LIMIT - REPLY_LIMIT}

    def fail(*_: object) -> bool:
        raise AssertionError("cryptography for a message that is dropped anyway")

    for name in ("check_mac1", "has_mac2", "reply"):
        monkeypatch.setattr(Verifier, name, fail)
    assert limiter.is_shut(message, address(1), 6)
    assert outcome(limiter, message, address(1), 6) == "dropped"
    monkeypatch.undo()
    assert not limiter.is_shut(message, address(1), 5 + SECOND)
    assert outcome(limiter, message, address(1), 5 + SECOND) == "let in"


def test_who_repeats_one_message_is_counted() -> None:
    limiter, message = make()

    def ask(number: int) -> str:
        try:
            return "cookie" if limiter.admit_once(message, address(number), 0) else "let in"
        except HandshakeError:
            return "dropped"

    assert outcomes(1000, ask) == {"let in": LIMIT, "cookie": REPLY_LIMIT, "dropped": 1000 - LIMIT - REPLY_LIMIT}


def test_one_network_does_not_take_all_cookies() -> None:
    limiter, message = make()
    outcomes(LIMIT, lambda _: outcome(limiter, message, address(1), 0))
    for network in ("192.0.2.%d", "2001:db8:0:%x::1"):
        found = outcomes(250, lambda number: outcome(limiter, message, ip_address(network % (number or 1)), 0))  # noqa: B023 - called at once
        assert found == {"cookie": REPLY_NETWORK_LIMIT, "dropped": 250 - REPLY_NETWORK_LIMIT}
        assert limiter.is_shut(message, ip_address(network % 1), 0)
    assert outcome(limiter, message, address(2), 0) == "cookie"


def with_cookie(limiter: RateLimiter, source: IPAddress, now: int) -> bytes:
    stamper = Stamper(PUBLIC)
    message = stamper.stamp(BODY, now)
    while (reply := limiter.admit(message, source, now)) is None:
        continue
    stamper.handle_reply(CookieReply.decode(reply), now)
    return stamper.stamp(BODY, now)


def test_who_has_proven_his_address_is_let_in_under_a_flood_and_limited_too() -> None:
    limiter, message = make()
    first, second = address(1), address(2)
    proofs = {source: with_cookie(limiter, source, 0) for source in (first, second)}
    outcomes(10_000, lambda number: outcome(limiter, message, address(number + 9), 0))
    assert not limiter.is_shut(proofs[first], first, 0)
    found = outcomes(50, lambda _: outcome(limiter, proofs[first], first, 0))
    assert found == {"let in": PROVEN_ADDRESS_LIMIT, "dropped": 50 - PROVEN_ADDRESS_LIMIT}
    assert outcome(limiter, proofs[second], second, 0) == "let in"
    assert outcome(limiter, proofs[second], first, 0) == "dropped"  # a cookie is for one address


def test_all_who_have_proven_their_addresses_are_limited_together() -> None:
    limiter, message = make()
    sources = [address(number) for number in range(2 * PROVEN_LIMIT // PROVEN_ADDRESS_LIMIT)]
    proofs = {source: with_cookie(limiter, source, 0) for source in sources}
    for _ in range(LIMIT):
        outcome(limiter, message, address(999), SECOND)
    found = outcomes(
        len(sources) * PROVEN_ADDRESS_LIMIT,
        lambda number: outcome(limiter, proofs[sources[number % len(sources)]], sources[number % len(sources)], SECOND),
    )
    assert found["let in"] == PROVEN_LIMIT


def test_peers_by_ice_have_budgets_of_their_own_by_port() -> None:
    limiter, message = make()
    relay = address(1)
    outcomes(10_000, lambda number: outcome(limiter, message, address(number), 0))
    for port in (50_000, 50_001):  # two clients of one relay
        known = Endpoint(relay, port)
        found = outcomes(50, lambda _: outcome(limiter, message, relay, 0, known))  # noqa: B023 - called at once
        assert found == {"let in": KNOWN_LIMIT, "dropped": 50 - KNOWN_LIMIT}
    with pytest.raises(HandshakeError, match="invalid mac1"):
        limiter.admit(message[:-32] + bytes(32), relay, 0, known=Endpoint(relay, 50_002))


def test_a_peer_over_its_budget_is_asked_for_a_cookie() -> None:
    limiter, message = make()
    known = Endpoint(address(1), 50_000)
    for _ in range(KNOWN_LIMIT):
        assert outcome(limiter, message, known.ip, 0, known) == "let in"
    assert outcome(limiter, message, known.ip, 0, known) == "cookie"
