"""Coverage-guided fuzzing: ``python -m tests.fuzz TARGET [options of libFuzzer, corpus folders]``, or ``make fuzz``.

Needs atheris, which ``make fuzz`` installs. A finding is written to the current folder as ``crash-…``; give that file
as the only argument after the target to see it again.
"""

import importlib
import sys
import tempfile
from pathlib import Path

# Atheris comes with no types, and is not among the locked packages: it exists for few machines.
atheris = importlib.import_module("atheris")

with atheris.instrument_imports(include=["connectivity", "relay"]):
    from tests.fuzz.targets import TARGETS


def main(arguments: list[str]) -> None:
    """Fuzz until a finding, or as long as the options say."""
    if not arguments or arguments[0] not in TARGETS:
        sys.exit(f"expected one of {', '.join(TARGETS)}")
    target = TARGETS[arguments[0]]
    with tempfile.TemporaryDirectory() as seeds:
        for index, example in enumerate(target.examples):
            Path(seeds, str(index)).write_bytes(example)
        is_replay = any(Path(argument).is_file() for argument in arguments[1:])
        folders = [] if is_replay else [*(word for word in arguments[1:] if Path(word).is_dir()), seeds]
        options = [word for word in arguments[1:] if not Path(word).is_dir()]
        atheris.Setup([sys.argv[0], *options, *folders], target.run)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
