"""The token of the client."""

import stat
from pathlib import Path

import pytest

from client.token import take_token
from connectivity.errors import FatalError


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
