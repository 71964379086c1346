"""Login URL, device id, User-Agent, back-off and the classes of failure."""

from ipaddress import IPv4Address, IPv6Address
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectivity.clock import SECOND
from connectivity.phoenix.backoff import INITIAL_DELAY_NS, MAXIMUM_DELAY_NS, Backoff
from connectivity.phoenix.failure import PortalFatal, Transient, classify_status, parse_retry_after
from connectivity.phoenix.login import (
    PortalLogin,
    SystemInfo,
    client_login,
    external_id,
    gateway_login,
    parse_api_url,
    relay_login,
    three_number_version,
    user_agent,
)

KEY = bytes([1]) * 32
KEY_TEXT = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="


def test_a_uuid_is_hashed_as_it_is_written() -> None:
    hashed = "c9cc2a8a01f9d3d6b2c26719965709196ae2c79214a837e28f0a751af1e2f2ca"
    assert external_id("4694E56C-7643-4A15-9DF3-638E5B05F570") == hashed
    assert external_id("4694e56c-7643-4a15-9df3-638e5b05f570") != hashed


def test_another_id_is_sent_as_it_is() -> None:
    assert external_id("laptop-7") == "laptop-7"


@pytest.mark.parametrize(
    ("api_url", "expected"),
    [
        ("wss://h", "wss://h:443/gateway/websocket"),
        ("wss://h/", "wss://h:443/gateway/websocket"),
        ("https://h/base/", "wss://h:443/base/gateway/websocket"),
        ("ws://h", "ws://h:443/gateway/websocket"),
        ("http://h:8081/?old=1", "ws://h:8081/gateway/websocket"),
        ("ws://[2001:db8::1]:8081", "ws://[2001:db8::1]:8081/gateway/websocket"),
    ],
)
def test_url(api_url: str, expected: str) -> None:
    assert gateway(api_url).url.split("?")[0] == expected


@pytest.mark.parametrize("text", ["ftp://h", "h:8081", "", "ws://", "ws://h:99999"])
def test_unusable_api_url(text: str) -> None:
    with pytest.raises(ValueError, match="expected a URL"):
        parse_api_url(text)


def test_gateway_parameters_in_order() -> None:
    pairs = parse_qsl(urlsplit(gateway("ws://h").url).query)
    assert pairs == [("token", "a+b/c="), ("external_id", "id"), ("name", "my gw"), ("public_key", KEY_TEXT)]


def test_parameters_are_form_encoded() -> None:
    assert "token=a%2Bb%2Fc%3D&external_id=id&name=my+gw&public_key=AQEB" in gateway("ws://h").url


def test_client_hides_the_meaningless_serial() -> None:
    hardware = {"device_serial": "123456789", "device_uuid": "u"}
    login = client_login(
        "ws://h", token="t", device_id="d", name="n", public_key=KEY, user_agent="ua", hardware=hardware
    )
    assert [name for name, _ in login.parameters] == ["token", "external_id", "name", "device_uuid"]


def test_relay_parameters_in_order() -> None:
    login = relay_login(
        "ws://h", token="t", user_agent="ua", ipv4=IPv4Address("192.0.2.1"), ipv6=IPv6Address("2001:db8::1"), port=3479
    )
    assert login.target == "/relay/websocket?token=t&ipv4=192.0.2.1&ipv6=2001%3Adb8%3A%3A1&port=3479"


def test_repr_hides_the_token() -> None:
    assert "a+b" not in repr(gateway("ws://h"))


def test_new_key_changes_only_the_key() -> None:
    login = gateway("ws://h")
    assert login.with_public_key(bytes(32)).parameters == login.parameters
    assert login.with_public_key(bytes(32)).url != login.url


@given(st.text(st.characters(codec="utf-8")))
def test_any_name_survives_the_encoding(name: str) -> None:
    login = relay_login("ws://h", token=name or "t", user_agent="ua", ipv4=IPv4Address("192.0.2.1"))
    assert parse_qsl(urlsplit(login.url).query, keep_blank_values=True)[0] == ("token", name or "t")


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        (SystemInfo("Debian", "12.0.0", "x86_64", "6.1.0"), "Debian/12.0.0 relay/0.1.0 (x86_64; 6.1.0)"),
        (SystemInfo("Alpine Linux", "3.20.3", "x86_64", ""), "Alpine Linux/3.20.3 relay/0.1.0 (x86_64)"),
        (SystemInfo("Línux", "1", "", "6.1"), "Lnux/1 relay/0.1.0 (6.1)"),
        (SystemInfo(), "Unknown/Unknown relay/0.1.0"),
    ],
)
def test_user_agent(system: SystemInfo, expected: str) -> None:
    assert user_agent("relay", system) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("22.04", "22.4.0"), ("12", "12.0.0"), ("3.20.3", "3.20.3"), ("1.2.3.4", "1.2.3"), ("", "")]
)
def test_os_version_has_three_numbers(text: str, expected: str) -> None:
    assert three_number_version(text) == expected


def test_first_failure_is_retried_at_once() -> None:
    assert backoff().next_delay(0) == 0


def test_delays_grow_by_half_up_to_a_minute() -> None:
    policy = backoff()
    delays = [policy.next_delay(0) for _ in range(20)]
    assert delays[1:4] == [INITIAL_DELAY_NS, INITIAL_DELAY_NS * 3 // 2, INITIAL_DELAY_NS * 9 // 4]
    assert delays[-1] == MAXIMUM_DELAY_NS


def test_reset_forgets_everything() -> None:
    policy = backoff()
    for _ in range(5):
        policy.next_delay(0)
    policy.reset()
    assert [policy.next_delay(0), policy.next_delay(0)] == [0, INITIAL_DELAY_NS]


def test_gives_up_when_the_next_attempt_would_be_too_late() -> None:
    policy = backoff(maximum_ns=10 * SECOND)
    policy.next_delay(0)
    assert policy.next_delay(9 * SECOND) == INITIAL_DELAY_NS
    assert policy.next_delay(10 * SECOND - 1) is None


@given(st.binary(min_size=4, max_size=4), st.integers(0, 30))
def test_jitter_is_half_at_most(random: bytes, failures: int) -> None:
    policy = Backoff(maximum_ns=None, rng=lambda _: random)
    for _ in range(failures + 1):
        policy.next_delay(0)
    delay = policy.next_delay(0)
    nominal = min(INITIAL_DELAY_NS * 1.5**failures, MAXIMUM_DELAY_NS)
    assert delay is not None
    assert nominal * 0.499 <= delay <= min(nominal * 1.501, MAXIMUM_DELAY_NS)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_refusals_are_fatal(status: int) -> None:
    outcome = classify_status(status, None, 0)
    assert isinstance(outcome, PortalFatal)
    assert outcome.is_authentication == (status in (401, 403))


def test_text_of_a_wrong_token() -> None:
    outcome = classify_status(401, None, 0)
    assert str(outcome) == (
        "Failed to login to portal: Failed to establish WebSocket connection: 401 Unauthorized"
        ": the portal has no such token, or it has ended"
    )


@pytest.mark.parametrize("status", [200, 302, 408, 429, 500, 503, 599])
def test_the_rest_is_tried_again(status: int) -> None:
    assert isinstance(classify_status(status, "7", 0), Transient)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, 0),
        ("7", 7 * SECOND),
        (" 7 ", 7 * SECOND),
        ("-7", 0),
        ("soon", 0),
        ("99999999999999999999", 15 * 60 * SECOND),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 60 * SECOND),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ],
)
def test_retry_after(text: str | None, expected: int) -> None:
    assert parse_retry_after(text, 0) == expected


def gateway(api_url: str) -> PortalLogin:
    return gateway_login(api_url, token="a+b/c=", device_id="id", name="my gw", public_key=KEY, user_agent="ua")


def backoff(maximum_ns: int | None = None) -> Backoff:
    """Without jitter: the random fraction is one half."""
    return Backoff(maximum_ns=maximum_ns, rng=lambda _: b"\x80\0\0\0")
