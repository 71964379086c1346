"""The device id: stored once, read back in every form that was ever written."""

import json
import logging
from pathlib import Path

import pytest

from connectivity.io.identity import load_or_create


@pytest.mark.parametrize(
    ("stored", "expected"),
    [('{"id": "abc"}', "abc"), ("abc\n", "abc"), ('"abc"', "abc"), ("123456", "123456"), ("1e5", "1e5")],
)
def test_a_stored_id_is_used_in_whatever_form(tmp_path: Path, stored: str, expected: str) -> None:
    path = tmp_path / "id.json"
    path.write_text(stored)
    assert load_or_create(path) == expected
    assert path.read_text() == stored


@pytest.mark.parametrize("stored", ["", '{"id": 7}', "{}"])
def test_an_unusable_file_gets_a_new_id_that_stays(tmp_path: Path, stored: str) -> None:
    path = tmp_path / "id.json"
    path.write_text(stored)
    created = load_or_create(path)
    assert len(bytes.fromhex(created)) == 32
    assert load_or_create(path) == created
    assert json.loads(path.read_text()) == {"id": created}
    assert path.stat().st_mode & 0o777 == 0o640


def test_an_id_that_cannot_be_stored_is_used_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert load_or_create(tmp_path / "file" / "id.json")
    assert "Cannot store the device id" in caplog.text
