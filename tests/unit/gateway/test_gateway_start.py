"""What a gateway's start does not wait for."""

import subprocess
import sys


def test_what_is_needed_later_only_is_imported_later() -> None:
    """A client that waits for a gateway waits for its imports, too."""
    asked = "import gateway.command, sys; print(*sorted({'pyroute2', 'opentelemetry', 'bcc'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
