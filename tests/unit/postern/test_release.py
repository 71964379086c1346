"""What a release is made by: one version, a changelog that tells of it, workflows that run what .ci/run does."""

import re
import runpy
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).resolve().parents[3]
CHECK: Final = runpy.run_path(str(ROOT / "dist/release-check"))
FILES: Final = ("pyproject.toml", "CHANGELOG.md", "charts/postern/Chart.yaml")
WORKFLOWS: Final = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A checkout of version 1.2.3, ready."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / name).read_text()
        text = re.sub(r'^((?:version|appVersion)\W+)[\d.]+("?)$', r"\g<1>1.2.3\2", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(text.replace("## Unreleased\n", "## Unreleased\n\n## 1.2.3 (2026-01-31)\n", 1))
    return tmp_path


def test_a_tag_is_released_only_if_all_say_the_same(released: Path) -> None:
    problems = CHECK["problems"]
    assert problems("v1.2.3", released) == []
    assert "Relay: STUN and TURN over UDP" in CHECK["notes"]("1.2.3", released)
    assert problems("v1.2.4", released) == ["the tag is v1.2.4: expected v1.2.3, the version in pyproject.toml"]
    for name in FILES[1:]:
        shutil.copy(ROOT / name, released / name)
        assert any(name in line for line in problems("v1.2.3", released))


def test_the_chart_has_the_version_of_the_project() -> None:
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert [line for line in CHECK["problems"](f"v{version}") if "Chart.yaml" in line] == []


def test_the_workflow_for_tests_has_the_parts_of_ci() -> None:
    parts = load(ROOT / ".github/workflows/test.yml")["jobs"]["part"]["strategy"]["matrix"]["part"]
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert parts == [
        line.removeprefix("POSTERN_TEST_PEERS=none ") for line in lines if re.match(r"(\w+=\w+ )?make ", line)
    ]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_no_more_than_they_need_and_run_what_is_there(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for job in workflow["jobs"].values():
        for step in job.get("steps", ()):
            assert "uses" not in step or re.search(r"@v\d+$", step["uses"]), step
            for line in re.findall(r"^(?:make|dist/\S+).*", step.get("run", ""), re.MULTILINE):
                program, *words = line.split()
                assert program == "make" or (ROOT / program).stat().st_mode & 0o100, line
                assert program != "make" or set(re.findall(r"^[a-z- ]+", " ".join(words))[0].split()) <= set(targets), (
                    line
                )
        for needed in [*([job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", ()))]:
            assert needed in workflow["jobs"]


def test_forms_for_issues_ask_for_what_the_doctor_says() -> None:
    forms = {path.stem: load(path) for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")}
    assert set(forms) == {"bug", "idea", "config"}
    assert any("postern doctor" in str(field) for field in forms["bug"]["body"])
    assert forms["config"] == {"blank_issues_enabled": False}


def load(path: Path) -> Any:
    # YAML reads a bare `on` as true, which GitHub does not.
    return yaml.safe_load(re.sub(r"^on:", "'on':", path.read_text(), flags=re.MULTILINE))
