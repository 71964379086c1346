"""No history of a deployment breaks a promise: a stateful property test over the simulated world.

The cases are the same in every run, so that a change that breaks one is known to be the cause; ``make soak`` looks for
others. A failing case is told as it is, not shortened, which would take longer than a test may (``make soak
ARGS=shrink`` does that).
"""

import pytest

from tests.simulation.soak import run_cases

SHARDS = 25  # so that several processes share them
CASES = 500


@pytest.mark.timeout(600)  # ten seconds, but a busy machine is no defect
@pytest.mark.parametrize("number", range(SHARDS))
def test_no_history_breaks_a_promise(number: int) -> None:
    run_cases(number, CASES // SHARDS)
