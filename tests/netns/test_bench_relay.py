"""The relays' benchmark measures: short, and without looking at its speeds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.relay_measure import PROGRAM_LOADS

POSTERN = Path(sys.executable).with_name("postern")

pytestmark = pytest.mark.root


def test_every_load_is_delivered_in_user_space_and_by_xdp(tmp_path: Path) -> None:
    kept = tmp_path / "figures.json"
    # Beside other tests a sender may not run at all for a tenth of a second.
    terms = ["--milliseconds", "200", "--rates", "5000", "--allocations", "20", "--json", str(kept)]
    command = [str(POSTERN), "bench", "relay", *terms]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(kept.read_text())
    variants = {one["variant"] for one in found["figures"]} - {"coturn"}  # which may be missing here
    assert variants == {"ours, user space", "ours, XDP native", "ours, XDP generic"}
    for one in found["figures"]:
        assert one["delivered_pps"] > 0, one
        assert one["kernel_us"] > 0, one
        if one["variant"] in {"coturn", "ours, user space"}:
            assert one["process_us"] > 0, one
        else:
            assert one["program_ns"] > 0, one
    assert len(found["programs"]) == len(PROGRAM_LOADS)
    for one in found["programs"]:
        assert min(one["ours_ns"], one["bare_ns"]) > 0, one
    for costs in found["allocations"]:
        assert (costs["count"], costs["per_second"] > 0) == (20, True)
    assert "Measured and wanted" in done.stdout
