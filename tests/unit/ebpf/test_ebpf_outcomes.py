"""The numbers of outcomes and directions are one list in two languages."""

import re
from pathlib import Path
from typing import Final

import ebpf.outcomes
from ebpf import Direction, Outcome

ABI: Final = (Path(ebpf.outcomes.__file__).parent / "include" / "abi.h").read_text()
NOT_COUNTED: Final = {"OUTCOME_CONTINUE", "OUTCOME_COUNT", "PUNT_FIRST", "DROP_FIRST", "DIRECTION_COUNT"}


def _enumeration(name: str) -> dict[str, int]:
    body = re.search(rf"^enum {name} {{(.*?)^}};", ABI, re.MULTILINE | re.DOTALL)
    assert body is not None
    return {match[1]: int(match[2]) for match in re.finditer(r"^\s*(\w+) = (\d+),", body[1], re.MULTILINE)}


def test_outcomes_are_those_of_the_program() -> None:
    named = _enumeration("outcome")
    assert {name: number for name, number in named.items() if name not in NOT_COUNTED} == {
        o.name: o.value for o in Outcome
    }
    assert named["OUTCOME_COUNT"] == ebpf.outcomes.OUTCOME_COUNT
    assert named["PUNT_FIRST"] == ebpf.outcomes.FIRST_PUNT
    assert named["DROP_FIRST"] == ebpf.outcomes.FIRST_DROP


def test_directions_are_those_of_the_program() -> None:
    named = _enumeration("direction")
    assert {name: number for name, number in named.items() if name not in NOT_COUNTED} == {
        f"DIRECTION_{direction.name}": direction.value for direction in Direction
    }
    assert named["DIRECTION_COUNT"] == len(Direction)


def test_each_outcome_is_in_the_range_that_its_name_says() -> None:
    for outcome in Outcome:
        kind = outcome.name.partition("_")[0]
        assert (outcome.is_forward, outcome.is_drop) == (kind == "FORWARD", kind == "DROP")


def test_reasons_read_well() -> None:
    assert Outcome.PUNT_UNKNOWN_FLOW.reason == "unknown_flow"
    assert len({outcome.reason for outcome in Outcome}) == len(Outcome)
