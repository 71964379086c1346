"""What the compiled helper saves of a run's whole way through both cores, without sockets and devices.

``python -m tests.unit.native_bench``: processor time in µs for a run, in Python and with the helper, by turns, the best
of many. A test's pipe carries them: split, seal, relay or not, open, tell flows apart, judge, merge.
"""

import math
import time

from connectivity import accelerator, native
from tests.unit.test_hot_path_memory import Pipe

_ROUNDS = 60
_RUNS = 10


def main() -> None:
    """Print one line per path and size of run."""
    ways = (None, native.load())
    for direct in (True, False):
        for count, size in ((50, 1280), (10, 1280), (2, 1280), (1, 100)):
            pipes = []
            for helper in ways:
                with accelerator.using(helper):
                    pipes.append(Pipe(direct=direct, count=count, size=size))
            best = [math.inf, math.inf]
            for _ in range(_ROUNDS):
                for way, helper in enumerate(ways):
                    with accelerator.using(helper):
                        best[way] = min(best[way], _seconds(pipes[way]))
            python, helped = (seconds * 1e6 for seconds in best)
            name = f"{'direct' if direct else 'relayed':8} {count:3} x {size:4} B"
            print(f"{name}: {python:6.1f} {helped:6.1f}, gain {python / helped:.2f}", flush=True)


def _seconds(pipe: Pipe) -> float:
    started = time.thread_time()
    pipe.carry(_RUNS)
    return (time.thread_time() - started) / _RUNS


if __name__ == "__main__":
    main()
