"""What SIGHUP says of a stand-alone relay's file."""

import logging
from pathlib import Path
from typing import Any

import pytest

from relay import config_file
from relay.configuration import Configuration
from relay.driver import reloading
from relay.driver.reloading import Reloading

CONTENT = """
realm: example.org
public: {ipv4: 192.0.2.1}
users: {alice: first-password, bob: second-password}
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("alice", "alice", []),
        (", bob: second-password", "", ["users 2 → 1"]),
        ("second-password", "third-password", ["users changed"]),
        ("public:", "peers: {deny: [10.0.0.0/8]}\npublic:", ["peers_deny 0 → 1"]),
        ("public:", "quotas: {allocations: 5}\npublic:", ["quotas changed"]),
        (
            "users: {alice: first-password, bob: second-password}",
            "rest_secrets: [long-enough-to-be-one]",
            ["users 2 → 0", "rest_secrets 0 → 1"],
        ),
    ],
)
def test_a_change_is_told_in_words(old: str, new: str, expected: list[str]) -> None:
    assert old in CONTENT
    assert parse(CONTENT).differences(parse(CONTENT.replace(old, new, 1))) == expected


def test_reading_again_says_what_changed_or_that_nothing_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "relay.yaml"
    path.write_text(CONTENT)
    path.chmod(0o600)
    contents = [b"one"] * 3 + [b"two"]
    monkeypatch.setattr(reloading, "_content", lambda _configuration: contents.pop(0))
    service, settings = _Service(), _Settings(config_file.load(path))
    monkeypatch.setattr(reloading, "without_absent_families", lambda configuration: configuration)
    reload = Reloading(service, settings, path, _Advising()).reload  # type: ignore[arg-type]  # only what is called
    with caplog.at_level(logging.INFO, "relay"):
        reload()
        path.write_text(CONTENT.replace(", bob: second-password", ""))
        reload()
        reload()
        path.write_text("realm: example.org\npublic: {ipv4: 192.0.2.1}\nusers: {alice: =}")
        reload()
    told = [record.fields["changed"] for record in lines(caplog) if record.message == "Configuration read again"]
    assert told == ["nothing", "users 2 → 1", "certificate renewed"]
    assert service.server.reconfigured == 3
    last = lines(caplog)[-1]
    assert last.message == "Kept the old configuration"
    assert "users.'alice' is (hidden) on line 3: expected texts" in last.fields["error"]
    assert "password" not in caplog.text


class _Settings:
    listed = proxies = ()

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration


class _Advising:
    def say(self, _configuration: Configuration) -> None:
        """Nothing is unwise."""


class _Server:
    reconfigured = 0

    def reconfigure(self, *_arguments: Any) -> int:
        self.reconfigured += 1
        return 0


class _Streams:
    trusted_proxies: Any = ()


class _Service:
    on_host = frozenset[Any]()

    def __init__(self) -> None:
        self.server = _Server()
        self.streams = _Streams()

    def settle(self, _now: int) -> None:
        """Nothing waits."""


def parse(content: str) -> Configuration:
    return config_file.parse(content, base=Path())


def lines(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return list(caplog.records)
