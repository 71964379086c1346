"""When a relay says what is unwise: at start and after a reload, of the certificate daily, of names once."""

import asyncio
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from connectivity.endpoint import Endpoint
from connectivity.io import firewall
from relay.configuration import Certificate, Configuration
from relay.core.own import OwnAddresses
from relay.driver.advising import Advising
from relay.driver.offload import OffloadStatus
from relay.settings import read_settings

PUBLIC: Final = ip_address("203.0.113.5")
SETTINGS: Final = replace(
    read_settings([], {"FIREZONE_API_URL": "wss://x", "FIREZONE_TOKEN": "t", "PUBLIC_IP4_ADDR": str(PUBLIC)}),
    portal=None,
)


@dataclass
class Service:
    """What advice looks at of a relay."""

    on_host: OwnAddresses = OwnAddresses(frozenset({PUBLIC}))  # noqa: RUF009 - frozen
    server: Any = field(default_factory=lambda: SimpleNamespace(names_in_milliseconds=0))
    mode: str = "native"

    @property
    def offload(self) -> Any:
        return SimpleNamespace(status=lambda: OffloadStatus(self.mode, "", {}))


def advising(service: Service) -> Advising:
    return Advising(service, SETTINGS)  # type: ignore[arg-type] # what it looks at


def certificate(folder: Path, *, days: int) -> Certificate:
    """A pair of files; it begins two years ago and ends in ``days``."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "turn.example.org")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=730))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    files = Certificate(folder / "cert.pem", folder / "key.pem")
    files.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def configured(files: Certificate | None) -> Configuration:
    return Configuration({4: PUBLIC}, (Endpoint.parse("0.0.0.0:3478"),), certificate=files)


def test_what_is_served_counts_until_another_certificate_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = advising(Service())
    said.say(configured(certificate(tmp_path, days=-1)))
    certificate(tmp_path, days=90)  # renewed on disk, and nobody has told the relay
    said._say_of_certificate()
    assert [record.message for record in caplog.records] == ["The certificate for TLS has expired"] * 2
    caplog.clear()
    said.say(configured(Certificate(tmp_path / "cert.pem", tmp_path / "key.pem")))
    said._say_of_certificate()
    assert not caplog.records


def test_a_certificate_that_ends_meanwhile_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = advising(Service())
    said.say(configured(certificate(tmp_path, days=30)))
    assert not caplog.records
    later = time.time_ns() + 31 * 86_400 * 10**9
    monkeypatch.setattr("relay.driver.advising.time.time_ns", lambda: later)
    said._say_of_certificate()
    assert [record.message for record in caplog.records] == ["The certificate for TLS has expired"]


def test_names_in_milliseconds_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    said = advising(service)
    said.maintain()
    assert not caplog.records
    service.server.names_in_milliseconds = 1
    said.maintain()
    service.server.names_in_milliseconds = 500
    said.maintain()
    assert [record.message for record in caplog.records] == ["REST names in milliseconds never end"]


@pytest.mark.parametrize(("mode", "found", "count"), [("native", 20, 1), ("native", 0, 0), ("off", 20, 0)])
def test_a_firewall_is_told_of_where_xdp_goes_around_it(
    mode: str, found: int, count: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firewall, "filters", lambda: [f"inet table{number} input" for number in range(found)])
    asyncio.run(advising(Service(mode=mode)).say_of_filters())
    assert len(caplog.records) == count
    for record in caplog.records:
        fields: dict[str, Any] = record.__dict__["fields"]
        assert fields["filters"] == 20
        assert len(str(fields["named"])) < 300
