"""Moves bytes between the user and the resource and compares checksums, both directions."""

import hashlib
import json
from typing import Final

from lab.errors import LabError
from lab.measure import PAGE_URL
from lab.resource import payload, payload_sha256
from lab.topology import Lab

_SECONDS: Final = 60


def download(
    lab: Lab, length: int, *, role: str = "user", url: str = PAGE_URL, bytes_per_second: int | None = None
) -> None:
    """Fetch ``length`` bytes, as fast as it goes or at a pace; LabError if other bytes arrive than were sent."""
    target = lab.logs / f"downloaded-{role}"
    command = ["curl", "-sSf", "-m", str(_SECONDS), *_pace(bytes_per_second), "-o", str(target), f"{url}bytes/{length}"]
    lab.run(lab.namespace(role), command, timeout=70)
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    size = target.stat().st_size
    target.unlink()
    if found != payload_sha256(length):
        raise LabError(f"the download has another checksum: {size} of {length} bytes")


def upload(lab: Lab, length: int, *, url: str = PAGE_URL, bytes_per_second: int | None = None) -> None:
    """Send ``length`` bytes, as fast as it goes or at a pace; LabError if the resource got others."""
    source = lab.logs / "uploaded"
    with source.open("wb") as file:
        file.writelines(payload(length))
    command = ["curl", "-sSf", "-m", str(_SECONDS), *_pace(bytes_per_second), "-T", str(source), f"{url}upload"]
    answer = lab.run(lab.user, command, timeout=70)
    source.unlink()
    found = json.loads(answer)
    if found != {"bytes": length, "sha256": payload_sha256(length)}:
        raise LabError(f"the upload has another checksum: {found['bytes']} of {length} bytes")


def _pace(bytes_per_second: int | None) -> list[str]:
    return [] if bytes_per_second is None else ["--limit-rate", str(bytes_per_second)]
