"""The images run what the tests ran: their lock holds a part of the developers' lock."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def pins(path: Path) -> set[str]:
    return set(re.findall(r"^[\w.-]+==\S+", path.read_text(), re.MULTILINE))


def test_images_pin_the_same_versions() -> None:
    images = pins(ROOT / "compose/requirements.lock")
    assert images
    assert images <= pins(ROOT / "requirements.lock")


def test_what_the_package_needs_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=]", found)[0].lower() for found in project["dependencies"]}
    assert "opentelemetry-exporter-otlp-proto-grpc" in wanted  # else exporting would fail in an image, and only there
    assert wanted <= {pin.partition("==")[0] for pin in pins(ROOT / "compose/requirements.lock")}
