"""A token, or where it is: a wrong path must not be taken for a token that the portal then refuses."""

from pathlib import Path

import pytest

from client.token import take_token
from connectivity.errors import FatalError
from connectivity.settings import VISIBLE_TOKEN, token_or_file
from gateway.settings import read_settings as read_gateway
from relay.settings import read_settings as read_relay


def test_a_token_is_itself() -> None:
    assert token_or_file("kJ7/secret+token=") == "kJ7/secret+token="


def test_a_path_is_read(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret\n")
    assert token_or_file(str(path)) == "secret"


@pytest.mark.parametrize(
    ("name", "words"),
    [("none", "No such file"), ("folder", "Is a directory"), ("empty", "empty file"), ("bad", "no text")],
)
def test_a_path_without_a_token_is_told(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder").mkdir()  # what a container engine makes of a missing file that it is to mount
    (tmp_path / "empty").touch()
    (tmp_path / "bad").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=words) as caught:
        token_or_file(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_the_client_tells_it_as_fatal(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="FIREZONE_TOKEN: expected a token or a readable file"):
        take_token({"FIREZONE_TOKEN": str(tmp_path)}, tmp_path)


@pytest.mark.parametrize("role", ["gateway", "relay"])
def test_a_token_among_the_arguments_is_warned_of_and_a_path_is_not(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIREZONE_TOKEN", "POSTERN_RELAY_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FIREZONE_API_URL", "ws://portal.example:8081")
    path = tmp_path / "token"
    path.write_text("a-token-of-some-length")

    def warnings(word: str) -> tuple[str, ...]:
        return (read_gateway if role == "gateway" else read_relay)([word]).warnings

    assert warnings("a-token-of-some-length") == (VISIBLE_TOKEN,)
    assert warnings(str(path)) == ()
    assert "a-token" not in VISIBLE_TOKEN
