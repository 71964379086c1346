"""File descriptors: as many as are allowed, some of them not for strangers."""

import errno
import os
import resource
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from connectivity.io import descriptors, logs

SOFT, HARD = resource.getrlimit(resource.RLIMIT_NOFILE)


@pytest.fixture(autouse=True)
def _unchanged() -> Iterator[None]:
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, HARD))


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, HARD))
    descriptors.raise_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (HARD, HARD)


def test_where_it_cannot_be_raised_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(resource, "getrlimit", lambda _: (200, 400))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    descriptors.raise_limit()
    assert descriptors.limit() == 200


def test_the_last_ones_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryFile() as opened:
        lowest_free = os.dup(opened.fileno())
        os.close(lowest_free)
        monkeypatch.setattr(resource, "getrlimit", lambda _: (lowest_free + 4, HARD))
        descriptors.keep_some_free(opened.fileno(), 3)
        monkeypatch.setattr(resource, "getrlimit", lambda _: (lowest_free + 3, HARD))
        with pytest.raises(OSError, match="Too many open files"):
            descriptors.keep_some_free(opened.fileno(), 3)


class Raised(Exception):
    """The limit was to be raised."""


@pytest.mark.parametrize("service", ["portal", "relay", "gateway", "client"])
def test_every_service_raises_it(service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def mark() -> None:
        raise Raised

    file, token = tmp_path / "portal.yaml", tmp_path / "token"
    file.write_text("listen: 127.0.0.1:0\n")
    token.write_text("a-token-that-is-long-enough")
    token.chmod(0o600)
    monkeypatch.setattr(descriptors, "raise_limit", mark)
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    monkeypatch.setenv("FIREZONE_TOKEN", str(token) if service == "gateway" else "a-token-that-is-long-enough")
    monkeypatch.setenv("FIREZONE_API_URL", "ws://192.0.2.1")
    monkeypatch.setenv("PUBLIC_IP4_ADDR", "192.0.2.1")
    arguments = {"portal": ["--config", str(file)]}.get(service, [])
    with pytest.raises(Raised):
        import_module(f"{service}.command").run(arguments)
