"""``make soak``: cases without end, each handful from another seed; what fails is told as steps that replay.

    python -m tests.simulation.soak [cases] [first seed] [shrink]

Steps that are told can be pasted into a test (``test_simulated_histories``). ``shrink`` shortens them first, which
takes minutes.
"""

import sys
import time
import traceback
from random import Random
from typing import Final

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.simulation.machine import SimulatedWorld

CASES_PER_SEED: Final = 25
STEPS: Final = 30


def run_cases(number: int, cases: int, *, shrink: bool = False) -> None:
    """So many cases from a seed; equal seeds make equal cases.

    Raises:
        Exception: whatever ended the first case that failed; its steps are among the notes.
    """
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    # A class of its own, for hypothesis keeps the seed with it.
    machine = seed(number)(type(SimulatedWorld.__name__, (SimulatedWorld,), {}))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=cases,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def soak(cases: int | None, number: int, *, shrink: bool) -> int:
    """Run so many cases, or until it is stopped; returns how many seeds failed."""
    failed = done = 0
    begun = time.monotonic()
    while cases is None or done < cases:
        try:
            run_cases(number, CASES_PER_SEED, shrink=shrink)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told, and the next seed begins
            failed += 1
            print(f"\n--- seed {number} failed", *traceback.format_exception_only(error), sep="\n", flush=True)
        done += CASES_PER_SEED
        number += 1
        print(f"{done} cases, {failed} seeds failed, {time.monotonic() - begun:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    wanted, begin = (*numbers, None, None)[:2]
    first = Random().randrange(1 << 30) if begin is None else begin
    sys.exit(soak(wanted, first, shrink="shrink" in sys.argv) > 0)
