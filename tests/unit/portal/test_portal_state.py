"""The secret that is made once: where it is kept, who may read it, and what is never overwritten."""

import logging
import os
from pathlib import Path

import pytest

from connectivity.settings import SettingsError
from portal import state


def test_a_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "portal"
    old = os.umask(0)
    try:
        first = state.load_or_create(path)
    finally:
        os.umask(old)
    assert len(first) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]
    assert state.load_or_create(path) == first
    assert state.load_or_create(tmp_path / "another") != first


def test_a_secret_that_cannot_be_kept_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert state.load_or_create(Path("/proc/portal")) == ""  # where nobody can make a file
    assert [record.message for record in caplog.records] == ["The portal's secret cannot be kept"]


@pytest.mark.parametrize("content", ["", "short", "x" * 64 + "\nand more", "\0" * 64])
def test_what_is_no_secret_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "portal"
    path.write_text(content)
    with pytest.raises(
        SettingsError, match=r"POSTERN_PORTAL_STATE is .* expected a secret of at least 32 letters"
    ) as raised:
        state.load_or_create(path)
    assert path.read_text() == content
    assert "and more" not in str(raised.value)


def test_a_folder_is_no_secret(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        state.load_or_create(tmp_path)


def test_a_secret_that_others_may_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "portal"
    path.write_text("x" * 64)
    path.chmod(0o644)
    assert state.load_or_create(path) == "x" * 64
    path.chmod(0o640)
    state.load_or_create(path)
    assert [record.message for record in caplog.records] == ["Others may read the portal's secret"]


def test_of_two_portals_that_start_at_once_both_have_the_first_ones_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "portal"
    link = os.link

    def late(source: str, target: Path) -> None:
        path.write_text("y" * 64)
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert state.load_or_create(path) == "y" * 64
    assert list(tmp_path.iterdir()) == [path]


def test_the_secret_is_in_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        secret = state.load_or_create(tmp_path / "portal")
    assert caplog.records
    assert secret not in caplog.text
