"""Settings are read once, and everything that is wrong comes out together."""

import re
from pathlib import Path

import pytest

from connectivity.endpoint import Endpoint
from connectivity.settings import (
    HelpRequested,
    SettingsError,
    SettingsReader,
    boolean,
    human_time,
    integer,
    one_of,
    text_value,
)

ROOT = Path(__file__).parents[3]


def test_flags_win_over_the_environment_and_empty_variables_count_as_unset() -> None:
    reader = SettingsReader("relay", ["--port", "5"], {"PORT": "7", "NAME": ""})
    assert reader.optional("PORT", "--port", integer(1, 9), 1) == 5
    assert reader.optional("NAME", None, text_value, "fallback") == "fallback"
    reader.finish()


def test_all_problems_come_out_in_one_error_that_names_each_value_and_expectation() -> None:
    reader = SettingsReader("relay", ["--colour", "--level=loud"], {"PORT": "99999", "POSTERN_TYPO": "1"})
    reader.optional("PORT", "--port", integer(1, 65535), 1)
    reader.optional("LEVEL", "--level", one_of("low", "high"), "low")
    reader.required("FIREZONE_API_URL", "--api-url", text_value, "a URL")
    with pytest.raises(SettingsError) as caught:
        reader.finish()
    assert caught.value.problems == (
        "PORT is '99999': expected an integer from 1 to 65535",
        "--level is 'loud': expected one of low, high",
        "FIREZONE_API_URL (or --api-url) is not set: expected a URL",
        "--colour is not a flag of postern relay",
        "POSTERN_TYPO is not a known setting",
    )
    assert "\n" not in str(caught.value)


def test_a_faulty_token_is_not_shown() -> None:
    def refuse(_: str) -> str:
        raise ValueError("expected something else")

    reader = SettingsReader("relay", [], {"FIREZONE_TOKEN": "hunter2"})
    reader.required("FIREZONE_TOKEN", None, refuse)
    with pytest.raises(SettingsError, match="hidden") as caught:
        reader.finish()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "environ",
    [
        {"POSTERN_TEST_PEERS": "none"},
        {"POSTERN_RELAY_SERVICE_HOST": "10.96.0.7"},
        {"POSTERN_RELAY_SERVICE_PORT_TURN": "3478"},
        {"POSTERN_RELAY_PORT": "udp://10.96.0.7:3478"},
        {"POSTERN_PORTAL_CONFIG": "portal.yaml"},
    ],
)
def test_names_of_tests_of_kubernetes_and_of_other_services_are_accepted(environ: dict[str, str]) -> None:
    SettingsReader("relay", [], environ).finish()


def test_every_documented_name_of_ours_is_accepted_by_every_service() -> None:
    documented = set(re.findall(r"POSTERN_[A-Z_]+", (ROOT / "docs/operating.md").read_text(encoding="utf-8")))
    SettingsReader("portal", [], dict.fromkeys(documented, "1")).finish()


def test_a_kubernetes_looking_name_with_another_value_is_an_error() -> None:
    with pytest.raises(SettingsError):
        SettingsReader("relay", [], {"POSTERN_RELAY_PORT": "3478"}).finish()


def test_a_switch_does_not_swallow_the_word_behind_it() -> None:
    reader = SettingsReader("gateway", ["--no-check", "token"], {})
    assert reader.switch(None, "--no-check")
    assert reader.positional() == ["token"]
    reader.finish()


@pytest.mark.parametrize(("text", "value"), [("true", True), ("0", False), ("ON", True), ("no", False)])
def test_booleans(text: str, value: bool) -> None:
    assert boolean(text) is value
    reader = SettingsReader("x", [], {"SWITCH": text})
    assert reader.switch("SWITCH", "--switch", default=not value) is value


def test_help_lists_names_flags_and_defaults() -> None:
    reader = SettingsReader("relay", ["--help"], {})
    reader.optional("LISTEN_PORT", "--listen-port", integer(1, 65535), 3478, "where clients come in")
    reader.optional("ALLOWED", None, frozenset, frozenset({"b", "a"}), "some")
    reader.optional("LISTEN", None, Endpoint.parse, Endpoint.parse("0.0.0.0:80"), "where")
    with pytest.raises(HelpRequested) as answer:
        reader.finish()
    assert str(answer.value).splitlines()[2:] == [
        "  --listen-port or LISTEN_PORT [3478]",
        "      where clients come in",
        "  ALLOWED [a,b]",
        "      some",
        "  LISTEN [0.0.0.0:80]",
        "      where",
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("1h", 3600),
        ("30d", 2_592_000),
        ("1h 30m", 5400),
        ("1h30min", 5400),
        ("2 days", 172_800),
        ("1 week 1 day", 691_200),
        ("90 seconds", 90),
    ],
)
def test_times_are_as_people_write_them(text: str, seconds: float) -> None:
    assert human_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "m", "5x", "1h30", "-5m", "1.5h", "5 minuteslong", "\u0665m", "5m,", "9" * 20 + "s"]
)
def test_what_is_no_time_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time such as"):
        human_time(text)
