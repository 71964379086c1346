"""The systemd units in dist/: they are understood, give away little, and name nothing that is not there."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
DIST: Final = ROOT / "dist"
PROGRAM: Final = "/opt/postern/bin/postern"
SERVICES: Final = ("client", "gateway", "portal", "relay")
# Tenths of systemd's exposure, of 100: what these units reach, and no more.
MOST_EXPOSURE: Final = {"client": 23, "gateway": 22, "portal": 12, "relay": 16}
MOST_WITH_OFFLOAD: Final = 26
CAPABILITIES: Final = {"client": "CAP_NET_ADMIN", "gateway": "CAP_NET_ADMIN", "portal": "", "relay": ""}


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with a program that is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    for path in DIST.glob("*.service"):
        (tmp_path / path.name).write_text(path.read_text().replace(PROGRAM, "/bin/true"))
    return tmp_path


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, check=False)


def add_offload(units: Path) -> None:
    folder = units / "postern-relay.service.d"
    folder.mkdir()
    shutil.copy(DIST / "postern-relay-offload.conf", folder / "offload.conf")


@pytest.mark.parametrize("service", SERVICES)
def test_systemd_understands_every_line(service: str, units: Path) -> None:
    done = analyze("verify", str(units / f"postern-{service}.service"))
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_understands_what_the_offload_adds(units: Path) -> None:
    add_offload(units)
    done = analyze("verify", str(units / "postern-relay.service"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("service", SERVICES)
def test_little_is_exposed(service: str, units: Path) -> None:
    path = str(units / f"postern-{service}.service")
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSURE[service]}", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


def test_the_offload_exposes_a_little_more(units: Path) -> None:
    add_offload(units)
    path = str(units / "postern-relay.service")
    assert analyze("security", "--offline=true", f"--threshold={MOST_WITH_OFFLOAD}", path).returncode == 0
    assert analyze("security", "--offline=true", f"--threshold={MOST_EXPOSURE['relay']}", path).returncode != 0


@pytest.mark.parametrize("service", SERVICES)
def test_no_capability_that_the_service_has_no_use_for(service: str) -> None:
    text = (DIST / f"postern-{service}.service").read_text()
    assert re.findall(r"^CapabilityBoundingSet=(.*)$", text, re.MULTILINE) == [CAPABILITIES[service]]
    assert f"ExecStart={PROGRAM} {service}\n" in text


def test_the_units_set_what_the_operators_page_knows() -> None:
    page = (ROOT / "docs/operating.md").read_text()
    for path in DIST.glob("postern*.*"):
        for name in re.findall(r"\b(?:POSTERN|FIREZONE)_[A-Z_]+", path.read_text()):
            assert f"`{name}`" in page, f"{path.name}: {name}"
        assert path.name in page, path.name
