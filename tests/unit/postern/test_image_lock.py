"""The images run what the tests ran: their lock holds a part of the developers' lock."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def pins(path: Path) -> set[str]:
    return set(re.findall(r"^[\w.-]+==\S+", path.read_text(), re.MULTILINE))


def test_images_pin_the_same_versions() -> None:
    images = pins(ROOT / "compose/requirements.lock")
    assert images
    assert images <= pins(ROOT / "requirements.lock")
