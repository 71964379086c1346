"""A packet's way stays short: how many modules a run of a known flow passes, between devices and sockets."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

import pytest

from connectivity import accelerator
from connectivity.clock import SECOND
from tests.helper import compiled
from tests.unit.test_hot_path_memory import BATCH_PACKETS, LARGE, Pipe

ARCHITECTURE = Path(__file__).resolve().parents[2] / "docs/architecture.md"
OURS = ("connectivity", "client", "gateway", "relay")
# A longer way costs every packet, and whoever reads it. A translation adds two: flow_table and ip.rewrite.
MOST = 21


@pytest.mark.parametrize("is_helped", [False, True])
def test_a_run_of_a_known_flow_passes_as_many_modules_as_the_document_says(
    is_helped: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with accelerator.using(compiled(tmp_path_factory) if is_helped else None):
        pipe = Pipe(direct=False, count=BATCH_PACKETS, size=LARGE)
        pipe.carry(5, gap=SECOND)
        pipe.carry(1)  # once a second the data path asks whether a relay's channel still holds
        passed = modules_of(pipe)
    assert pipe.arrived == 7 * BATCH_PACKETS
    assert ("connectivity.native.helper" in passed) is is_helped
    told = re.search(r"passes (\d+) modules of ours", ARCHITECTURE.read_text(encoding="utf-8"))
    assert told is not None
    assert len(passed) == int(told[1]) <= MOST, sorted(passed)
    assert not [name for name in passed if name.startswith(("client", "gateway"))], "nobody is asked again"


def test_what_the_document_names_within_a_module_is_there() -> None:
    named = re.findall(r"`([a-z_.]+)` \(`(\w+)`\)", ARCHITECTURE.read_text(encoding="utf-8"))
    assert len(named) > 5
    for module, name in named:
        found = find_spec(module)
        assert found is not None, module
        assert found.origin is not None, module
        assert re.search(rf"^ *(def|class) {name}\b", Path(found.origin).read_text(encoding="utf-8"), re.MULTILINE), (
            name
        )


def test_every_module_of_the_library_stands_in_the_house() -> None:
    house = ARCHITECTURE.read_text(encoding="utf-8").split("```")[1]
    for path in (ARCHITECTURE.parents[1] / "connectivity").iterdir():
        if (path.is_dir() or path.suffix == ".py") and not path.name.startswith("_"):
            assert re.search(rf"\b{path.stem}\b", house), path.stem


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
