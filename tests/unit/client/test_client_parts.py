"""The token of the client."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from client.session import Device
from client.token import rereading, take_token
from connectivity.errors import FatalError
from connectivity.wireguard import KeyPair
from tests.unit.connectivity.test_io_buffers import settings_of


def test_the_variable_wins_and_is_taken_out_of_the_environment(tmp_path: Path) -> None:
    environ = {"FIREZONE_TOKEN": " secret "}
    assert take_token(environ, tmp_path / "none") == "secret"
    assert environ == {}


def test_a_missing_token_names_both_places(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match=r"\$FIREZONE_TOKEN or in '.*none'"):
        take_token({}, tmp_path / "none")


@pytest.mark.root
@pytest.mark.parametrize(
    ("mode", "safe"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False), (0o700, False)]
)
def test_a_token_file_must_be_for_its_owner_alone(tmp_path: Path, mode: int, safe: bool) -> None:
    path = tmp_path / "token"
    path.write_text("secret\n")
    path.chmod(mode)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    if safe:
        assert take_token({}, path) == "secret"
    else:
        with pytest.raises(FatalError, match="readable by root only"):
            take_token({}, path)


@pytest.mark.root
def test_a_file_is_read_again_and_a_token_given_as_such_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text("a good token")
    settings = settings_of("client", monkeypatch, FIREZONE_ID="this-device")
    assert rereading("a good token", path) is None

    def token(told: str) -> str:
        device = Device(settings, read_token=rereading(told, path))
        login = device._make_login(replace(settings, token="as given"), KeyPair.generate(os.urandom))
        return dict(login.parameters)["token"]

    for told in ("", str(path)):
        for written, expected in (
            ("a good token\n", "a good token"),
            ("another one\n", "another one"),
            ("", "as given"),
        ):
            path.write_text(written)
            assert token(told) == expected
    path.unlink()
    assert token("") == "as given"
    assert [record.getMessage() for record in caplog.records] == ["Cannot read the token again"] * 2
