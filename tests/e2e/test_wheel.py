"""The wheel holds all that the repository's packages have, and its command works where nothing else of ours is."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Final

import pytest

from postern.cli import COMMANDS

pytestmark = pytest.mark.long

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("connectivity", "relay", "gateway", "client", "portal", "ebpf", "lab", "bench", "postern")
# What only a checkout has a use for; and what is made of the sources for one machine.
LEFT_OUT: Final = (".pyc", "lab/setup.sh")
MADE: Final = "connectivity/native/built/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, ROOT / "dist/wheel", folder], check=True, timeout=120)
    (built,) = folder.glob("postern-*.whl")
    return built


def test_it_holds_every_file_of_the_packages(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    files = {
        path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()
    }
    assert not any(name.startswith(MADE) for name in inside)
    assert {name for name in files - inside if not name.endswith(LEFT_OUT) and not name.startswith(MADE)} == set()


def test_its_one_command_works_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "environment"
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "bin/python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)
    # Dependencies from here; our own packages are not in that folder, an editable install only points at them.
    env = {"PATH": os.defpath, "PYTHONPATH": sysconfig.get_path("purelib")}

    def postern(*words: str) -> str:
        done = subprocess.run(
            [folder / "bin/postern", *words],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), words
        return done.stdout

    assert [path.name for path in (folder / "bin").glob("postern*")] == ["postern"]
    assert postern("version").startswith("postern ")
    for command in COMMANDS:
        assert postern(command, "--help").startswith("usage: postern"), command
    script = "import ebpf, portal; print(ebpf.__file__, portal.__file__)"
    found = subprocess.run(
        [folder / "bin/python", "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert all(Path(path).is_relative_to(folder) for path in found.stdout.split())
