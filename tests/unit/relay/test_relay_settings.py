"""The relay's settings: the image's environment, our own names, and every mistake at once."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from connectivity.errors import FatalError
from connectivity.settings import SettingsError
from relay.configuration import OffloadWish
from relay.core.own import OwnAddresses
from relay.core.peers import parse_rules
from relay.driver.core_settings import relayed_at, server_settings
from relay.settings import PortalAccess, RelaySettings, read_settings

MINIMUM = {
    "PUBLIC_IP4_ADDR": "192.0.2.10",
    "FIREZONE_API_URL": "wss://api.example.com",
    "FIREZONE_TOKEN": "the token",
}


def read(*arguments: str, **environment: str) -> RelaySettings:
    return read_settings(arguments, {**MINIMUM, **environment})


def access(settings: RelaySettings) -> PortalAccess:
    assert settings.portal is not None
    return settings.portal


def problems(**environment: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(**environment)
    return str(caught.value)


def test_defaults_are_those_of_the_image() -> None:
    settings = read()
    assert settings.public == {4: ip_address("192.0.2.10")}
    served = settings.configuration
    assert [str(address) for address in served.listen] == ["0.0.0.0:3478"]
    assert (served.lowest_port, served.highest_port, served.serves_tcp) == (49_152, 65_535, False)
    assert str(settings.health_address) == "0.0.0.0:8080"
    assert served.offload is None
    assert access(settings).name is None


def test_the_images_whole_environment_is_accepted() -> None:
    settings = read(
        PUBLIC_IP6_ADDR="2001:db8::10",
        LISTEN_PORT="3479",
        LOWEST_PORT="50000",
        HIGHEST_PORT="50010",
        FIREZONE_NAME="relay one",
        RNG_SEED="0",
        LOG_FORMAT="google-cloud",
        RUST_LOG="debug,wire=trace",
        GOOGLE_CLOUD_PROJECT_ID="project",
        HEALTH_CHECK_ADDR="127.0.0.1:8081",
        CONTROL_ENDPOINT="127.0.0.1:9999",
        FIREZONE_TELEMETRY="true",
        OTEL_SERVICE_NAME="relay",
        RUST_BACKTRACE="1",
    )
    assert set(settings.public) == {4, 6}
    assert (access(settings).name, settings.configuration.highest_port) == ("relay one", 50_010)
    assert [str(address) for address in settings.configuration.listen] == ["0.0.0.0:3479", "[::]:3479"]
    assert settings.log_format == "google-cloud"


def test_flags_and_positional_arguments_win() -> None:
    settings = read("--public-ip4-addr", "192.0.2.11", "--telemetry", "another token", "a name", FIREZONE_NAME="x")
    assert settings.public == {4: ip_address("192.0.2.11")}
    assert (access(settings).token, access(settings).name) == ("another token", "a name")


def test_a_token_may_be_in_a_file_and_never_in_repr(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("from a file\n")
    settings = read(FIREZONE_TOKEN=str(path))
    assert access(settings).token == "from a file"
    assert "from a file" not in repr(settings)
    path.write_text("")
    assert "empty file" in problems(FIREZONE_TOKEN=str(path))


def test_all_problems_come_together() -> None:
    text = problems(
        PUBLIC_IP4_ADDR="2001:db8::1",
        PUBLIC_IP6_ADDR="192.0.2.1",
        LISTEN_PORT="0",
        LOWEST_PORT="60000",
        HIGHEST_PORT="50000",
        FIREZONE_API_URL="ftp://x",
        FIREZONE_TOKEN="",
        HEALTH_CHECK_ADDR="8080",
        POSTERN_EBPF="maybe",
        POSTERN_PEERS_ALLOW="10.0.0.1/8",
        POSTERN_NOSUCH="1",
    )
    for name in (
        "PUBLIC_IP4_ADDR",
        "PUBLIC_IP6_ADDR",
        "LISTEN_PORT",
        "LOWEST_PORT",
        "FIREZONE_API_URL",
        "FIREZONE_TOKEN",
        "HEALTH_CHECK_ADDR",
        "POSTERN_EBPF",
        "POSTERN_PEERS_ALLOW",
        "POSTERN_NOSUCH",
    ):
        assert name in text


def test_no_public_address_is_fatal_before_anything_starts() -> None:
    with pytest.raises(FatalError, match="no public address"):
        read(PUBLIC_IP4_ADDR="").require_public_address()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"POSTERN_EBPF": "auto"}, None),
        ({"POSTERN_EBPF_INTERFACES": "eth0, eth1"}, (("eth0", "eth1"), "auto")),
        ({"POSTERN_EBPF_INTERFACES": "eth0", "POSTERN_EBPF": "native"}, (("eth0",), "native")),
        ({"POSTERN_EBPF_INTERFACES": "eth0", "POSTERN_EBPF": "off"}, None),
        ({"EBPF_OFFLOADING": "eth0"}, (("eth0",), "native")),
        ({"EBPF_OFFLOADING": "eth0", "EBPF_ATTACH_MODE": "driver"}, (("eth0",), "native")),
        ({"EBPF_OFFLOADING": "eth0", "EBPF_ATTACH_MODE": "generic"}, (("eth0",), "generic")),
        ({"EBPF_OFFLOADING": "eth0", "POSTERN_EBPF": "auto"}, (("eth0",), "auto")),
        ({"EBPF_OFFLOADING": "eth0", "POSTERN_EBPF": "off"}, None),
    ],
)
def test_how_hard_to_offload(environment: dict[str, str], expected: tuple[tuple[str, ...], str] | None) -> None:
    wish = read(**environment).configuration.offload
    assert (None if wish is None else (wish.interfaces, wish.mode)) == expected


def test_offload_addresses_behind_nat() -> None:
    wish = read(EBPF_OFFLOADING="eth0", EBPF_INT4_ADDR="10.0.0.5", POSTERN_EBPF_GENERIC_FROM_PEER="true")
    assert wish.configuration.internal == (ip_address("10.0.0.5"),)
    assert wish.configuration.offload == OffloadWish(("eth0",), "native", (ip_address("10.0.0.5"),), True)


@pytest.mark.parametrize(
    "environment",
    [
        {"EBPF_OFFLOADING": "eth0", "LOWEST_PORT": "32767"},
        {"EBPF_OFFLOADING": "eth0", "POSTERN_EBPF_INTERFACES": "eth1"},
        {"EBPF_OFFLOADING": "eth0,,eth1"},
        {"EBPF_ATTACH_MODE": "native"},
        {"POSTERN_EBPF": "native"},
    ],
)
def test_offload_wishes_that_cannot_be(environment: dict[str, str]) -> None:
    assert "EBPF" in problems(**environment) or "LOWEST_PORT" in problems(**environment)


def test_low_ports_are_fine_without_offload() -> None:
    assert (
        read(LOWEST_PORT="1024", POSTERN_EBPF_INTERFACES="eth0", POSTERN_EBPF="off").configuration.lowest_port == 1024
    )


def test_what_the_core_is_told() -> None:
    settings = read(
        PUBLIC_IP6_ADDR="2001:db8::10",
        EBPF_OFFLOADING="eth0",
        EBPF_INT4_ADDR="10.0.0.5",
        POSTERN_PEERS_ALLOW="127.0.0.0/8:53, ::1/128",
        POSTERN_PEERS_DENY="10.0.0.0/8",
    )
    on_host = OwnAddresses(frozenset({ip_address("10.0.0.6"), ip_address("2001:db8::10")}))
    core = server_settings(settings.configuration, on_host, is_standalone=False)
    expected = {"192.0.2.10", "2001:db8::10", "10.0.0.5", "10.0.0.6"}
    assert core.policy.own == OwnAddresses(frozenset(ip_address(text) for text in expected))
    assert core.policy.allow == (*parse_rules("127.0.0.0/8:53"), *parse_rules("::1/128"))
    assert core.policy.deny == parse_rules("10.0.0.0/8")
    assert core.policy.under_portal
    assert relayed_at(settings.configuration, on_host) == {6: ip_address("2001:db8::10")}


def test_the_time_to_drain() -> None:
    assert read().drain_seconds == 60
    assert read(POSTERN_DRAIN_SECONDS="0").drain_seconds == 0
    assert "POSTERN_DRAIN_SECONDS is '-1': expected an integer from 0 to 86400" in problems(POSTERN_DRAIN_SECONDS="-1")


def test_a_list_of_addresses_fills_the_families_that_have_none() -> None:
    listed = "198.51.100.1, 2001:db8::1,198.51.100.2"
    assert read(POSTERN_PUBLIC_ADDRESSES=listed).public == {4: ip_address("192.0.2.10"), 6: ip_address("2001:db8::1")}
    settings = read(PUBLIC_IP4_ADDR="", POSTERN_PUBLIC_ADDRESSES=listed)
    assert settings.public == {4: ip_address("198.51.100.1"), 6: ip_address("2001:db8::1")}
    assert "POSTERN_PUBLIC_ADDRESSES is '192.0.2': expected IP addresses separated by commas" in problems(
        POSTERN_PUBLIC_ADDRESSES="192.0.2"
    )


@pytest.mark.parametrize(
    ("environment", "exporters", "endpoint"),
    [
        ({}, ("none", "none"), None),
        ({"OTLP_GRPC_ENDPOINT": "otel:4317"}, ("otlp", "otlp"), "otel:4317"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://otel.example.org:4317"}, ("otlp", "otlp"), None),
        ({"OTLP_GRPC_ENDPOINT": "otel:4317", "OTEL_TRACES_EXPORTER": "none"}, ("otlp", "none"), "otel:4317"),
        ({"OTEL_METRICS_EXPORTER": "console"}, ("console", "none"), None),
    ],
)
def test_a_collectors_address_alone_turns_telemetry_on(
    environment: dict[str, str], exporters: tuple[str, str], endpoint: str | None
) -> None:
    telemetry = read(**environment).telemetry
    assert ((telemetry.metrics, telemetry.traces), telemetry.endpoint) == (exporters, endpoint)


def test_a_collector_that_speaks_only_http_is_told_apart() -> None:
    text = problems(OTEL_EXPORTER_OTLP_ENDPOINT="http://otel:4318", OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")
    assert "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/protobuf': expected one of grpc" in text
