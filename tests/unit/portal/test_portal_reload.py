"""What SIGHUP and the start say of the portal's file."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from portal import changes, config_file
from portal.command import _advise, _Reloading, _Source
from portal.configuration import Configuration

WALL = 1_790_000_000
CONTENT = """
secret: a secret of sixteen characters or more
sites: [{name: hq}, {name: branch}]
resources:
  - {name: lan, type: cidr, address: 10.20.0.0/16, sites: [hq]}
  - {name: wiki, type: dns, address: "*.corp.example", sites: [hq]}
policies:
  - {resource: lan, groups: [staff]}
  - {resource: wiki, actors: [alice]}
tokens:
  - {type: client, name: laptop, actor: alice, groups: [staff], token: client-token-long-enough}
  - {type: client, name: phone, actor: bob, token: another-token-long-enough}
  - {type: gateway, site: hq, token: gateway-token-long-enough}
  - {type: relay, token: relay-token-long-enough}
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{name: hq}", "{name: hq}", []),
        ("  - {resource: wiki, actors: [alice]}\n", "", ["policies 2 → 1", "access of laptop to wiki taken away"]),
        ("groups: [staff]}\n", "groups: [everyone]}\n", ["policies changed", "access of phone to lan given"]),
        (
            "actors: [alice]}",
            "actors: [alice], expires_at: 2027-01-31}",
            ["policies changed", "access of laptop to wiki ends at another time"],
        ),
        (
            "  - {type: client, name: phone, actor: bob, token: another-token-long-enough}\n",
            "",
            ["tokens 4 → 3"],
        ),
        ("client-token", "fresh-token", ["tokens changed", "token of laptop replaced"]),
        (
            "token: client-token-long-enough",
            "token: [client-token-long-enough, another-of-the-same]",
            ["tokens changed", "texts of the token of laptop 1 → 2"],
        ),
        ("a secret of", "another secret of", ["secret changed"]),
        ("sites: [{name: hq}", "dns: {search_domain: corp.example}\nsites: [{name: hq}", ["dns changed"]),
        ("sites: [{name: hq}", "listen: 127.0.0.1:9\nsites: [{name: hq}", ["listen changed"]),
        ("name: lan, type: cidr", "name: lan, description: x, type: cidr", ["resources changed"]),
    ],
)
def test_a_change_is_told_in_words(old: str, new: str, expected: list[str]) -> None:
    assert old in CONTENT
    assert changes.describe(parse(CONTENT), parse(CONTENT.replace(old, new, 1)), WALL) == expected


def test_words_are_bounded_and_hold_no_secret() -> None:
    names = [f"r{number}" for number in range(100)]
    many = "\n".join(
        f"  - {{name: {name}, type: ip, address: 10.0.0.{index}, sites: [hq]}}" for index, name in enumerate(names)
    )
    policies = "\n".join(f"  - {{resource: {name}, groups: [everyone]}}" for name in names)
    new = CONTENT.replace("policies:", f"{many}\npolicies:\n{policies}").replace("-token-", "-tokem-")
    found = changes.describe(parse(CONTENT), parse(new), WALL)
    assert len(found) == changes.MAXIMUM_PARTS + 1
    assert found[-1] == "and more"
    assert "token-" not in str(found)
    assert "tokem" not in str(found)


def test_too_much_to_compare_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MAXIMUM_PAIRS", 3)
    new = CONTENT.replace("  - {resource: wiki, actors: [alice]}\n", "")
    assert changes.describe(parse(CONTENT), parse(new), WALL)[1:] == ["too much to compare who may reach what"]


def test_reading_again_says_what_changed_or_that_nothing_did(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "portal.yaml"
    path.write_text(CONTENT)
    path.chmod(0o600)
    source, server = _Source(path, None), _Server()
    reloading = _Reloading(source, server, source.load())  # type: ignore[arg-type]  # only apply is called
    with caplog.at_level(logging.INFO, "portal"):
        reloading.reload()
        path.write_text(CONTENT.replace("  - {resource: wiki, actors: [alice]}\n", ""))
        reloading.reload()
        reloading.reload()
        path.write_text(CONTENT.replace("name: lan", "nmae: lan"))
        reloading.reload()
    told = [record.fields["changed"] for record in records(caplog) if record.message == "Configuration read again"]
    assert told == ["nothing", "policies 2 → 1, access of laptop to wiki taken away", "nothing"]
    assert len(server.applied) == 3
    assert records(caplog)[-1].message == "Kept the old configuration"


def test_a_short_token_and_a_file_that_others_may_read_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "portal.yaml"
    content = CONTENT.replace("client-token-long-enough", "short")
    path.write_text(content)
    path.chmod(0o644)
    _advise(path, parse(content))
    first, second = records(caplog)
    assert first.message == "Tokens shorter than 16 characters can be guessed"
    assert first.fields == {"names": ["laptop"]}
    assert second.message == "Others may read tokens or the secret"
    assert second.fields == {"file": path, "remedy": f"chown {os.geteuid()} {path}; chmod 600 {path}"}
    caplog.clear()
    path.chmod(0o640)
    _advise(path, parse(CONTENT))
    assert not records(caplog)


def test_a_file_without_secrets_may_be_read_by_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "portal.yaml"
    (tmp_path / "token").write_text("relay-token-long-enough")
    path.write_text("tokens: [{type: relay, token_file: token}]")
    path.chmod(0o644)
    _advise(path, config_file.load(path))
    assert not records(caplog)


def test_a_secret_is_kept_where_the_file_has_none(tmp_path: Path) -> None:
    path, kept = tmp_path / "portal.yaml", tmp_path / "state"
    path.write_text(CONTENT.replace("secret: a secret of sixteen characters or more\n", ""))
    assert _Source(path, None).load().secret == ""
    secret = _Source(path, kept).load().secret
    assert secret == kept.read_text().strip() == _Source(path, kept).load().secret
    path.write_text(CONTENT)
    assert _Source(path, kept).load().secret == "a secret of sixteen characters or more"


def test_a_kept_secret_that_is_lost_meanwhile_stays_in_force(tmp_path: Path) -> None:
    """Devices rest on it: another one would move their addresses under them."""
    path, kept = tmp_path / "portal.yaml", tmp_path / "state"
    path.write_text("tokens: []")
    source = _Source(path, kept)
    secret = source.load().secret
    kept.unlink()
    assert source.load().secret == secret
    assert not kept.exists()


def test_no_state_is_made_for_a_file_with_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "portal.yaml"
    path.write_text(CONTENT)
    _Source(path, tmp_path / "state").load()
    assert os.listdir(tmp_path) == ["portal.yaml"]


class _Server:
    def __init__(self) -> None:
        self.applied: list[Configuration] = []

    def apply(self, configuration: Configuration) -> None:
        self.applied.append(configuration)


def parse(content: str) -> Configuration:
    return config_file.parse(content, base=Path())


def records(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return list(caplog.records)
