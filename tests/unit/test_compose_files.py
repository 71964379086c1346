"""The compose files: what they mount, and for whom they wait."""

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.documented import CLAIMS

ROOT: Final = Path(__file__).resolve().parents[2] / "compose"
FILES: Final = (ROOT / "docker-compose.yml", ROOT / "turn" / "docker-compose.yml")


def services(file: Path) -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load(file.read_text(encoding="utf-8"))["services"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_folders_are_mounted_so_that_a_replaced_file_is_seen(file: Path) -> None:
    """A file that is mounted by itself stays the old one when an editor puts a new one in its place."""
    for name, service in services(file).items():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert not source.startswith((".", "/")) or (file.parent / source).is_dir(), f"{name}: {volume}"


def test_whoever_is_told_to_use_the_stack_finds_it_ready() -> None:
    """``up`` returns when the last service has started, and that one waits for the client's health."""
    (command,) = [text for text in CLAIMS if "curl http://app.internal" in text]
    user = services(FILES[0])[command.split()[5]]
    assert user["depends_on"] == {"client": {"condition": "service_healthy"}}
    assert user["network_mode"] == "service:client"
