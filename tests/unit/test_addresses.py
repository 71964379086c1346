"""No address of a package archive or a registry stands in the project: each machine has its own.

What a public address may be: the name of a project or a document that somebody may read.
"""

import re
from pathlib import Path

from tests.documented import ROOT

READ_BY_PEOPLE = frozenset({
    "github.com",  # Firezone
    "json-schema.org",
    "semver.org",
    "www.apache.org",
    "www.debian.org",  # what a copyright file of a package is
    "www.conventionalcommits.org",
    "www.rfc-editor.org",
    "www.w3.org",  # the name space of SVG
    "www.wireguard.com",
})  # fmt: skip
# RFC 2606, RFC 6761, RFC 6762's .internal kin: names that nobody can have.
_RESERVED = re.compile(r"(^|\.)(example|test|invalid|internal|local|localhost|example\.(com|net|org)|svc)$")
_HOST = re.compile(
    r"\b(?:https?|ftp)://(?:[^/@\s\"'`]*@)?([A-Za-z0-9][A-Za-z0-9-]*(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,})\b"
)
_IMAGE = re.compile(r"(?:image|IMAGE|FROM|BASE)\b[:= ]+\"?([a-z0-9-]+(?:\.[a-z0-9-]+)+)/")
_SUFFIXES = frozenset({
    "", ".c", ".h", ".json", ".list", ".lock", ".md", ".py", ".sh", ".sources", ".toml", ".txt", ".yaml", ".yml", ".tpl"
})  # fmt: skip
_NOT_OURS = frozenset({"build", "node_modules", "__pycache__"})


def test_public_addresses_are_those_of_documents() -> None:
    found = {
        (host, str(path.relative_to(ROOT)))
        for path in _files(ROOT)
        for pattern in (_HOST, _IMAGE)
        for host in pattern.findall(path.read_text(encoding="utf-8", errors="replace"))
        if not _RESERVED.search(host) and host not in READ_BY_PEOPLE
    }
    assert found == set()


def test_an_address_would_be_found() -> None:
    # In pieces, or the other test would find them here.
    scheme, image = "http" + "://", "image" + ": "
    assert _HOST.findall(f"{scheme}archive.somewhere.net/debian {scheme}user@packages.somewhere.io") == [
        "archive.somewhere.net",
        "packages.somewhere.io",
    ]
    assert _HOST.findall(f"{scheme}172.20.0.100/ {scheme}localhost:8080 {scheme}[::1]/") == []
    assert _IMAGE.findall(f'{image}"registry.somewhere.io/relay:1"') == ["registry.somewhere.io"]
    assert _IMAGE.findall("export RELAY_IMAGE=" + "registry.somewhere.io/relay:1") == ["registry.somewhere.io"]


def _files(folder: Path) -> list[Path]:
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.name in _NOT_OURS or entry.name.endswith((".egg-info", "_cache")):
            continue
        if entry.is_dir() and entry.name not in {".git", ".venv", ".hypothesis"}:
            found += _files(entry)
        elif entry.is_file() and entry.suffix in _SUFFIXES and entry.name != ".git":
            found.append(entry)
    return found
