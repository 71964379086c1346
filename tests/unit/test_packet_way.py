"""A packet's way stays short: how many modules a run of a known flow passes, from one TUN device to the other."""

import re
import sys
from pathlib import Path
from types import FrameType

from connectivity.clock import SECOND
from tests.unit.test_hot_path_memory import BATCH_PACKETS, LARGE, Pipe

ARCHITECTURE = Path(__file__).resolve().parents[2] / "docs/architecture.md"
OURS = ("connectivity", "client", "gateway", "relay")
# A longer way costs every packet, and whoever reads it. A translation adds two: flow_table and ip.rewrite.
MOST = 27


def test_a_run_of_a_known_flow_passes_as_many_modules_as_the_document_says() -> None:
    pipe = Pipe(direct=False, count=BATCH_PACKETS, size=LARGE)
    pipe.carry(5, gap=SECOND)
    passed = modules_of(pipe)
    assert pipe.arrived == 6 * BATCH_PACKETS
    told = re.search(r"passes (\d+) modules of ours", ARCHITECTURE.read_text(encoding="utf-8"))
    assert told is not None
    assert len(passed) == int(told[1]) <= MOST, sorted(passed)
    assert not [name for name in passed if name.startswith(("client", "gateway"))], "nobody is asked again"


def modules_of(pipe: Pipe) -> set[str]:
    """The modules whose functions run while one batch is carried."""
    passed: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.partition(".")[0] in OURS:
            passed.add(name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        pipe.carry(1)
    finally:
        sys.setprofile(before)
    return passed
