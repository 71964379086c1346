"""The workflows, which run on a host of repositories alone: what they name is there, and .ci/run has the same parts."""

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / ".github" / "workflows"
NAMES: Final = sorted(path.name for path in FOLDER.glob("*.yml"))


def jobs(name: str) -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))["jobs"])


def scripts(name: str) -> str:
    """All that its steps run."""
    return "\n".join(step.get("run", "") for job in jobs(name).values() for step in job.get("steps", ()))


@pytest.mark.parametrize("name", NAMES)
def test_files_and_targets_that_a_workflow_names_are_there(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    programs = re.findall(r"(?<![\w./-])(?:dist|charts|compose|lab)/[\w./-]+", scripts(name))
    files = re.findall(r"^\s+(?:file|context): (\S+)$|uses: \./(\S+)", text, re.MULTILINE)
    for path in (*programs, *filter(None, sum(files, ()))):
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    told = re.findall(r"^\s*make ([a-z-]+(?: [a-z-]+)*)", "\n".join([scripts(name), *_parts(name)]), re.MULTILINE)
    assert told
    assert {target for words in told for target in words.split()} <= targets
    for job in jobs(name).values():
        needs = job.get("needs", [])
        assert set([needs] if isinstance(needs, str) else needs) <= jobs(name).keys()


def test_the_parts_side_by_side_are_those_of_the_script() -> None:
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert _parts("test.yml") == [
        line.removeprefix("POSTERN_TEST_PEERS=none ")
        for line in run.splitlines()
        if re.match(r"(\w+=\w+ )?make ", line)
    ]


def test_an_image_is_made_of_each_service() -> None:
    stages = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "compose/Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    targets = jobs("release.yml")["images"]["strategy"]["matrix"]["target"]
    services = {path.name.split("-")[1].split(".")[0] for path in (ROOT / "dist").glob("postern-*.service")}
    assert set(targets) == services
    assert set(targets) <= set(stages)


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_asks_for_no_more_than_it_needs(name: str) -> None:
    """Rights to write are of single jobs, and of what strangers chose nothing stands in a script itself."""
    assert yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))["permissions"] == {"contents": "read"}
    chosen = re.findall(r"\$\{\{(?! *matrix\.)[^}]*\}\}", scripts(name))
    assert chosen == []


def _parts(name: str) -> list[str]:
    return [part for job in jobs(name).values() for part in job.get("strategy", {}).get("matrix", {}).get("part", ())]
