"""``postern client`` exports metrics as a process, alone in a network namespace without a portal.

That they reach a collector is shown with the relay's, in ``test_relay_telemetry``.
"""

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.stage import END_SECONDS, POSTERN

pytestmark = pytest.mark.root

# Stands in front of the package of the collector's exporter: it never gets through, and does not give up either.
HANGING: Final = """
import time
from dataclasses import dataclass
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

class OTLPMetricExporter(ConsoleMetricExporter):
    def __init__(self, **_):
        super().__init__()

    def export(self, *_, **__):
        while True:
            time.sleep(60)

    shutdown = export
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the client ended after it was told to."""

    code: int
    output: str
    errors: str
    seconds: float


def run_a_moment(directory: Path, env: dict[str, str]) -> Ended:
    """Start the client, let it find that there is no portal, and tell it to stop."""
    base = {"PATH": os.environ["PATH"], "FIREZONE_API_URL": "ws://127.0.0.1:9", "FIREZONE_TOKEN": "token"}
    base |= {"FIREZONE_DNS_CONTROL": "disabled", "POSTERN_STATUS_SOCKET": "off"}
    with (
        (directory / "output").open("w+") as output,
        subprocess.Popen(
            ["unshare", "--net", *POSTERN, "client"],
            env={**base, "FIREZONE_ID": "device", **env},
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            assert process.stderr is not None
            seen = ""
            while "Portal is away" not in seen:  # which it finds out when all else runs
                assert process.poll() is None, seen
                seen += process.stderr.readline()
            told = time.monotonic()
            process.send_signal(signal.SIGTERM)
            seen += process.stderr.read()
            code = process.wait(60)
            taken = time.monotonic() - told
        finally:
            process.kill()
        output.seek(0)
        return Ended(code, output.read(), seen, taken)


@pytest.fixture
def hanging_exporter(tmp_path: Path) -> Path:
    module = tmp_path / "opentelemetry" / "exporter" / "otlp" / "proto" / "grpc" / "metric_exporter.py"
    module.parent.mkdir(parents=True)
    (module.parent / "__init__.py").touch()  # else the installed package comes first
    module.write_text(HANGING)
    return tmp_path


def test_metrics_on_stdout_are_json_lines_and_the_last_one_comes_with_the_end(tmp_path: Path) -> None:
    ended = run_a_moment(tmp_path, {"FIREZONE_METRICS": "stdout", "OTEL_METRIC_EXPORT_INTERVAL": "50"})
    assert ended.code == 0, ended.errors
    assert ended.errors.rstrip().endswith("Goodbye!")
    lines = [json.loads(line) for line in ended.output.splitlines()]
    assert lines
    assert lines[-1]["resource_metrics"][0]["resource"]["attributes"]["service.name"] == "postern-client"
    assert ended.seconds < END_SECONDS


def test_a_collector_that_hangs_does_not_keep_the_client_from_ending(hanging_exporter: Path) -> None:
    env = {"FIREZONE_METRICS": "otel-collector", "OTLP_GRPC_ENDPOINT": "127.0.0.1:4317"}
    env |= {"PYTHONPATH": str(hanging_exporter), "OTEL_METRIC_EXPORT_INTERVAL": "50"}
    ended = run_a_moment(hanging_exporter, env)
    assert ended.code == 0, ended.errors
    assert "The last metrics were not exported in time" in ended.errors
    assert ended.output == ""
    assert ended.seconds < END_SECONDS
