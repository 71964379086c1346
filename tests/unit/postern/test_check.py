"""``--check FILE``: the settings files of portal and relay are looked at, and nothing is served."""

import re
from pathlib import Path
from typing import Final

import pytest

from lab import portal_file
from postern import cli
from tests.documented import ROOT, claimed

PORTAL: Final = "sites:\n- name: hq\nresources:\n- name: a\n  type: cidr\n  address: 10.0.0.1/8\n  sites: [hv]\n"
RELAY: Final = "realm: example.org\npublic:\n  ipv4: 203.0.113.5\n  ipv6: 1\nusers: {a: 5}\n"


@pytest.mark.parametrize(
    ("service", "content", "lines"),
    [("portal", PORTAL, (6, 7)), ("relay", RELAY, (4, 5)), ("relay", "a: [\n", (2,)), ("portal", "sites: 1", (1,))],
)
def test_all_mistakes_are_told_with_their_lines(
    service: str, content: str, lines: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "given.yaml"
    path.write_text(content)
    assert cli.main([service, "--check", str(path)]) == 2
    said = capsys.readouterr().out.splitlines()
    assert [int(line.removeprefix(f"{path}:").split(":")[0]) for line in said] == list(lines)


def test_the_documented_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    portal_file.write(tmp_path / "portal.yaml", portal_file.Tokens.random())
    text = (ROOT / "README.md").read_text()
    (content,) = re.findall(r"^```yaml\n# relay.yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "relay.yaml").write_text(content)
    monkeypatch.chdir(tmp_path)
    for command in claimed("test_check::test_the_documented_commands"):
        assert cli.main(command.split()[1:]) == 0, command
    said = capsys.readouterr()
    assert said.out == "portal.yaml: no mistake found\nrelay.yaml: no mistake found\n"
    assert "Others may read users or rest_secrets" in said.err
    assert "secret" not in said.err.replace("rest_secrets", "")


def test_a_file_that_is_not_there_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    for service in ("portal", "relay"):
        assert cli.main([service, "--check", "/nowhere/a.yaml"]) == 2
        assert capsys.readouterr().err == f"postern {service}: cannot read /nowhere/a.yaml: No such file or directory\n"
