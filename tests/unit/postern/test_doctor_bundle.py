"""The doctor's archive for a bug report holds no secret, wherever one lies on the host."""

import tarfile
from pathlib import Path
from typing import Final

import pytest

from connectivity.errors import FatalError
from postern import cli, doctor
from postern.doctor import bundle, checks, start_up
from postern.doctor.hiding import Hiding
from tests.documented import claimed

# Each is somewhere on the host below, some of them twice and in another form.
SECRETS: Final = {
    name: f"{name}-s3cr/t+value="
    for name in (
        "relay",
        "gateway",
        "client",
        "inline",
        "file",
        "next",
        "portal",
        "password",
        "rest",
        "variable",
        "named",
    )
}
KEY: Final = "2Lm5wz9i0bXGdYQv0d7nJx3cO8c1S6y5f4T2e1R0q9U="
PEM: Final = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG\n-----END PRIVATE KEY-----\n"
SIGNED: Final = "SFMyNTY.g2gDaANtAAAAJDhmMTIz.bWFkZXVwc2lnbmF0dXJl"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with secrets in its settings, its environment, its logs and what its commands say."""
    folder, logs = tmp_path / "etc", tmp_path / "log"
    folder.mkdir()
    logs.mkdir()
    for service in ("relay", "gateway", "client"):
        (folder / f"{service}.token").write_text(SECRETS[service] + "\n")
    (folder / "gateway.env").write_text(f"FIREZONE_NAME=gate\nOTEL_EXPORTER_AUTH_HEADER={SECRETS['variable']}\n")
    (folder / "gateway-token").write_text(SECRETS["file"])
    (folder / "gateway-token-2").write_text(SECRETS["next"])
    (folder / "portal.yaml").write_text(
        f"secret: {SECRETS['portal']}\n# was: {KEY}\nsites: [{{name: hq}}]\ntokens:\n"
        f"- {{type: client, name: laptop, token: {SECRETS['inline']}}}\n"
        "- {type: gateway, site: hq, token_file: [gateway-token, gateway-token-2]}\n"
    )
    (folder / "relay.yaml").write_text(
        f"realm: example.org\nusers: {{alice: {SECRETS['password']}}}\nrest_secrets: [{SECRETS['rest']}]\n"
    )
    (folder / "broken.yaml").write_text(f"token: {KEY}\n:[")
    quoted = SECRETS["client"].replace("/", "%2F").replace("+", "%2B").replace("=", "%3D")
    (logs / "postern-client.jsonl").write_text(
        f"{{'message': 'Connecting', 'url': 'wss://portal/client?token={quoted}'}}\n{SECRETS['gateway']} {PEM}\n"
        f"Authorization: Bearer {SIGNED}\nfetched https://me:{SECRETS['named']}@example.org/ with {KEY} ok\n"
    )
    monkeypatch.setattr(start_up, "FOLDER", folder)
    monkeypatch.setattr(bundle, "_LOGS", logs)
    monkeypatch.setattr(
        bundle,
        "_COMMANDS",
        (
            f"echo {SECRETS['file']} {SECRETS['next']} {SECRETS['relay']} says so",
            f"cat {logs / 'postern-client.jsonl'}",
        ),
    )
    monkeypatch.setattr(checks, "CHECKS", ())
    monkeypatch.setenv("FIREZONE_TOKEN", SECRETS["named"])
    return tmp_path


def test_no_secret_of_the_host_is_in_it(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = host / "report.tar.gz"
    assert doctor.run(["--bundle", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: secrets are taken out")
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        parts = {entry.name: read(archive, entry) for entry in archive.getmembers()}
    text = "".join(parts.values())
    for secret in (*SECRETS.values(), KEY, SIGNED, "MIIEvQIBADANBgkqhkiG", "s3cr"):
        assert secret not in text, secret
    # What helps is still there.
    assert "(hidden) says so" in text
    assert "FIREZONE_NAME=gate" in parts["postern-doctor/settings/gateway.env"]
    assert "name: laptop" in parts["postern-doctor/settings/portal.yaml"]
    assert "realm: example.org" in parts["postern-doctor/settings/relay.yaml"]
    assert "'message': 'Connecting'" in parts["postern-doctor/logs/postern-client.jsonl"]


def test_the_documented_command(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(host)
    for command in claimed("test_doctor_bundle::test_the_documented_command"):
        assert cli.main(command.split()[1:]) == 0
    assert tarfile.is_tarfile(host / "report.tar.gz")


def test_no_file_is_overwritten(host: Path) -> None:
    path = host / "report.tar.gz"
    path.write_text("mine")
    with pytest.raises(FatalError, match="cannot write"):
        doctor.run(["--bundle", str(path)])
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    "text",
    [
        "allocations 12, packets_total 4000000, path /run/postern/relay.sock, fe80::1234:5678:9abc:def0",
        "8f14e45f-ceea-467f-a8f0-1234567890ab joined from 203.0.113.5:52625",
        "realm: example.org, tls: {certificate: cert.pem}, token_file: secrets/gateway",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Hiding(["other-secret"]).text(text) == text


def read(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    opened = archive.extractfile(entry)
    assert opened is not None
    return opened.read().decode()
