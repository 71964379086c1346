"""What a relay says of a configuration that is allowed and unwise, and of its certificate as time goes by."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Final

import pytest

from connectivity.clock import SECOND
from connectivity.endpoint import IPAddress
from relay.advice import advise, advise_of_certificate
from relay.configuration import Configuration, Validity
from relay.core.own import OwnAddresses

PUBLIC: Final[dict[int, IPAddress]] = {4: ip_address("203.0.113.5"), 6: ip_address("2001:db8::5")}
ON_HOST: Final = OwnAddresses(frozenset(PUBLIC.values()))
BEGINS: Final = datetime(2026, 1, 1, tzinfo=UTC)
VALIDITY: Final = Validity(BEGINS, BEGINS + timedelta(days=90))


def said(configuration: Configuration, on_host: OwnAddresses = ON_HOST, *, is_standalone: bool = True) -> str:
    found = advise(configuration, on_host, is_standalone=is_standalone)
    return "\n".join(f"{advice.message} {advice.fields}" for advice in found)


def configured(*versions: int, internal: tuple[IPAddress, ...] = ()) -> Configuration:
    return Configuration({version: PUBLIC[version] for version in versions}, (), internal=internal)


def test_a_usual_relay_is_told_nothing() -> None:
    assert said(configured(4)) == said(configured(4, 6)) == said(configured(6), is_standalone=False) == ""


def test_a_relay_that_browsers_cannot_use_is_told() -> None:
    assert "440" in said(configured(6))
    assert "public.ipv4" in said(configured(6))


@pytest.mark.parametrize(("is_standalone", "name"), [(True, "internal.ipv4"), (False, "EBPF_INT4_ADDR")])
def test_a_public_address_that_no_interface_has_is_told_once_with_the_name_of_the_setting(
    is_standalone: bool, name: str
) -> None:
    elsewhere = OwnAddresses(frozenset({PUBLIC[6], ip_address("10.0.0.5")}))
    told = said(configured(4, 6), elsewhere, is_standalone=is_standalone)
    assert len(told.splitlines()) == 1
    assert "203.0.113.5" in told
    assert name in told
    assert said(configured(4, 6, internal=(ip_address("10.0.0.5"),)), elsewhere, is_standalone=is_standalone) == ""


@pytest.mark.parametrize(
    ("days", "expected"),
    [(-1, "not valid yet"), (1, None), (82, None), (84, "ends soon"), (89, "ends soon"), (91, "has expired")],
)
def test_a_certificate_is_told_before_and_after_its_time(days: int, expected: str | None) -> None:
    moment = int((BEGINS + timedelta(days=days)).timestamp()) * SECOND
    advice = advise_of_certificate(VALIDITY, moment)
    assert (advice is None) == (expected is None)
    if advice is not None and expected is not None:
        assert expected in advice.message
        assert "remedy" in advice.fields


@pytest.mark.parametrize(("hours", "is_soon"), [(1, False), (17, False), (19, True)])
def test_a_short_lived_certificate_is_told_of_in_its_last_quarter(hours: int, is_soon: bool) -> None:
    moment = int((BEGINS + timedelta(hours=hours)).timestamp()) * SECOND
    assert (advise_of_certificate(Validity(BEGINS, BEGINS + timedelta(days=1)), moment) is not None) == is_soon
