"""Debian's archive is the one that this machine's own sources name, in either format."""

import shutil
from pathlib import Path

import pytest

from tests.e2e.archive import ArchiveError, package_archive

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt-get is missing: no machine of Debian's")

LINES = """\
# deb http://commented.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb cdrom:[Debian]/ bookworm main
deb http://security.example/debian-security bookworm-security main
deb [arch=amd64 trusted=yes] http://mirror.example/debian bookworm contrib main
deb http://other.example/debian trixie main
"""
STANZAS = """\
Types: deb
URIs: http://switched-off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb deb-src
# http://commented.example/debian
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of sources of an apt that has no others."""
    folder = tmp_path / "parts"
    folder.mkdir()
    settings = tmp_path / "apt.conf"
    settings.write_text(
        f'Dir::Etc::SourceList "/dev/null"; Dir::Etc::SourceParts "{folder}"; Dir::State::Lists "{tmp_path}";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(settings))
    return folder


@pytest.mark.parametrize(("name", "text"), [("one.list", LINES), ("one.sources", STANZAS)])
def test_the_source_of_the_suite_says_where(parts: Path, name: str, text: str) -> None:
    (parts / name).write_text(text)
    assert package_archive("bookworm") == "http://mirror.example/debian"


def test_no_source_of_the_suite_is_said(parts: Path) -> None:
    with pytest.raises(ArchiveError, match="none of this machine's sources has bookworm main"):
        package_archive("bookworm")
    (parts / "one.list").write_text(LINES)
    with pytest.raises(ArchiveError, match="none of this machine's sources has sid main"):
        package_archive("sid")


def test_what_apt_cannot_read_is_said(parts: Path) -> None:
    (parts / "one.list").write_text("no source at all\n")
    with pytest.raises(ArchiveError, match=r"apt cannot read this machine's sources: E: .*one\.list"):
        package_archive("bookworm")
