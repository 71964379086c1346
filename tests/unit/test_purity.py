"""Every module is a core, held to the rules for cores by ``make check``, or is named as none in ``pyproject.toml``."""

import subprocess
import sys
import tomllib
from fnmatch import fnmatch

import pytest

from tests.documented import ROOT

PACKAGES = ("connectivity", "relay", "gateway", "client", "portal")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
# What only a driver may do, and the rule that says so.
EFFECTS = {
    "print('said')": "T201",
    "datetime.now(UTC)": "TID251",
    "uuid.uuid4()": "TID251",
    "np.random.default_rng()": "TID251",
    "logging.basicConfig()": "TID251",
    "logging.getLogger().addHandler(logging.StreamHandler())": "TID251",
}
HEAD = "import logging\nimport uuid\nfrom datetime import UTC, datetime\n\nimport numpy as np\n\n"


def contract() -> dict[str, list[str]]:
    """Import-linter's contract for cores."""
    (found,) = (one for one in SETTINGS["importlinter"]["contracts"] if one["name"].startswith("cores have no clock"))
    return {key: value for key, value in found.items() if isinstance(value, list)}


def test_every_module_is_a_core_or_named_as_none() -> None:
    others = [path for path, rules in SETTINGS["ruff"]["lint"]["per-file-ignores"].items() if "TID251" in rules]
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            relative = path.relative_to(ROOT)
            name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
            if name == package:
                continue
            is_core = any(f"{name}.".startswith(f"{core}.") for core in contract()["source_modules"])
            is_other = any(fnmatch(str(relative), pattern) for pattern in others)
            assert is_core != is_other, (
                f"{name}: pyproject.toml has to say whether it is a core (source_modules of the contract for cores) "
                "or not (ruff's per-file-ignores)"
            )


def test_what_no_core_imports() -> None:
    assert {"time", "socket", "asyncio", "os", "random", "secrets", "ebpf", "connectivity.io"} <= set(
        contract()["forbidden_modules"]
    )


@pytest.mark.parametrize("effect", EFFECTS)
def test_no_effect_passes_in_a_core(effect: str) -> None:
    for module, said in (("gateway/core.py", True), ("relay/core/server.py", True), ("connectivity/io/logs.py", False)):
        command = [sys.executable, "-m", "ruff", "check", "--select", "T20,TID", "--stdin-filename", module, "-"]
        done = subprocess.run(
            command, cwd=ROOT, input=f"{HEAD}{effect}\n", capture_output=True, text=True, timeout=60, check=False
        )
        assert (EFFECTS[effect] in done.stdout) is said, done.stdout
