"""Who is let in by the upgrade request, and with which answer the others go."""

import pytest

from connectivity.endpoint import Endpoint
from portal.configuration import Configuration, Token, TokenType
from portal.login import DeviceLogin, Refusal, RelayLogin, TokenTable, authenticate

KEY = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
AGENT = "Debian/12.0.0 gateway/1.4.17 (x86_64; 6.1.0)"
DEVICE = {"token": "g", "external_id": "x", "name": "n", "public_key": KEY}
RELAY = {"token": "r", "ipv4": "192.0.2.1", "port": "3478"}
RELAY_AGENT = "Debian/12.0.0 relay/0.1.0"


def test_gateway_is_let_in() -> None:
    login = decide(TokenType.GATEWAY, DEVICE, AGENT)
    assert isinstance(login, DeviceLogin)
    assert login.version == (1, 4, 17)


def test_relay_is_let_in() -> None:
    login = decide(TokenType.RELAY, RELAY, RELAY_AGENT)
    assert isinstance(login, RelayLogin)
    assert (str(login.ipv4), login.ipv6, login.port) == ("192.0.2.1", None, 3478)


def test_token_in_a_header() -> None:
    parameters = {name: value for name, value in DEVICE.items() if name != "token"}
    headers = {"User-Agent": AGENT, "X-Authorization": "Bearer g"}
    assert isinstance(authenticate(table(), TokenType.GATEWAY, parameters, headers, 0), DeviceLogin)


@pytest.mark.parametrize("ipv4", ["10.0.0.3", "172.28.0.3", "192.168.1.1", "100.65.0.1", "203.0.113.5", "198.18.0.1"])
def test_a_relay_may_be_in_a_private_network_or_a_lab(ipv4: str) -> None:
    login = decide(TokenType.RELAY, {**RELAY, "ipv4": ipv4, "ipv6": "fd00:28::3"}, RELAY_AGENT)
    assert isinstance(login, RelayLogin)
    assert len(login.addresses) == 2


def test_no_token() -> None:
    assert decide(TokenType.GATEWAY, {}, AGENT) == Refusal(401, "Missing token")


@pytest.mark.parametrize(
    ("kind", "text"), [(TokenType.GATEWAY, "wrong"), (TokenType.GATEWAY, "r"), (TokenType.CLIENT, "old")]
)
def test_wrong_token(kind: TokenType, text: str) -> None:
    assert decide(kind, {**DEVICE, "token": text}, AGENT) == Refusal(401, "Invalid token")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"external_id": ""}, "external_id"),
        ({"name": "n" * 256}, "name"),
        ({"public_key": "AQEB"}, "public_key"),
        ({"public_key": "A" * 44}, "public_key"),
        ({"public_key": KEY[:-1] + "!"}, "public_key"),
    ],
)
def test_unusable_parameters(changed: dict[str, str], expected: str) -> None:
    refusal = decide(TokenType.GATEWAY, {**DEVICE, **changed}, AGENT)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 422
    assert refusal.text.startswith(f"Invalid or missing connection parameters: {expected}")


@pytest.mark.parametrize(
    "changed",
    [
        {"ipv4": ""},
        {"ipv4": "2001:db8::1"},
        {"ipv4": "h"},
        *(
            {"port": port}
            for port in (
                "0",
                "70000",
                "x",
                "000001999999",
                "03478",
                "+3478",
                "3478 ",
                "٣٤٧٨",
                "9" * 5000,
                "00001" * 1000,
            )
        ),
        *(
            {"ipv4": ip}
            for ip in ("127.0.0.1", "0.0.0.0", "169.254.169.254", "168.63.129.16", "224.0.0.1", "240.0.0.1")
        ),
        *({"ipv4": ip} for ip in ("255.255.255.255", "100.100.100.200", "192.0.0.192", "192.0.2.01")),
        *(
            {"ipv6": ip}
            for ip in ("::", "::1", "::ffff:192.0.2.1", "fe80::1", "fe80::1%eth0", "2001:db8::1%1", "ff02::1")
        ),
        *({"ipv6": ip} for ip in ("64:ff9b::7f00:1", "2002:7f00:1::", "fd00:ec2::254", "fd00:ec2::23", "fec0::1")),
    ],
)
def test_unusable_relay(changed: dict[str, str]) -> None:
    refusal = decide(TokenType.RELAY, {**RELAY, **changed}, RELAY_AGENT)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 422


@pytest.mark.parametrize("agent", ["", "curl/8.0", "gateway/", "gateway/new", "Debian/12.0.0 gatewayx/1.4.17"])
def test_user_agent_without_a_known_component(agent: str) -> None:
    refusal = decide(TokenType.GATEWAY, DEVICE, agent)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 422


def test_os_name_with_a_space() -> None:
    login = decide(TokenType.GATEWAY, DEVICE, "Alpine Linux/3.20.3 gateway/1.4.17-rc.1 (x86_64)")
    assert isinstance(login, DeviceLogin)
    assert login.version == (1, 4, 17)


def decide(kind: TokenType, parameters: dict[str, str], agent: str) -> DeviceLogin | RelayLogin | Refusal:
    return authenticate(table(), kind, parameters, {"User-Agent": agent}, wall_seconds=1_000)


def table() -> TokenTable:
    tokens = (
        Token("gateway", TokenType.GATEWAY, ("g",), site_id="s"),
        Token("relay", TokenType.RELAY, ("r",)),
        Token("old", TokenType.CLIENT, ("old",), actor="a", expires_at=1_000),
    )
    return TokenTable(Configuration(listen=Endpoint.parse("127.0.0.1:8081"), tokens=tokens))
