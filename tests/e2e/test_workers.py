"""A gateway with two worker processes, and two clients, each of which is another's: traffic, deaths, goodbyes.

The topology is drawn in ``lab.plan``.
"""

import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lab.plan import LabSettings, Nat
from lab.processes import wait_until
from lab.stack import Stack
from lab.topology import Lab
from lab.transfer import download, upload
from tests.e2e.stage import GOODBYE_SECONDS, PARTS, Stage, is_within, traces

pytestmark = pytest.mark.root

MEGABYTE = 1_000_000
CLIENTS = ("user", "client-2")


@pytest.fixture(scope="module", params=[pytest.param("direct", marks=pytest.mark.long), "relayed"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    nat = Nat.SYMMETRIC if request.param == "relayed" else LabSettings().client_nat
    with Lab(LabSettings(nat, nat, client_count=2)) as lab:
        pristine = {name: traces(lab.namespace(name)) for name in PARTS}
        stack = Stack(lab, environment={"POSTERN_WORKERS": "2"})
        stack.start()
        yield Stage(stack, pristine)


@pytest.fixture(autouse=True)
def ready(stage: Stage) -> None:
    """Whatever the test before has ended: both workers run, each with a connected client."""
    stack = stage.stack
    wait_until(lambda: workers(stack)["running"] == 2, "both workers run", [gateway(stack)])
    for role in CLIENTS:
        download(stack.lab, MEGABYTE, role=role)
    wait_until(lambda: len(stage.peers("gateway")) == 2, "the gateway has forgotten connections of before")


def test_each_client_is_another_workers(stage: Stage) -> None:
    stack = stage.stack
    for role in CLIENTS:
        download(stack.lab, 4 * MEGABYTE, role=role)
    upload(stack.lab, 4 * MEGABYTE)
    wait_until(lambda: received(stack) > 3000, "the workers have told what they counted")
    counted = stack.status("gateway")["counters"]
    assert [connection["state"] for connection in stage.peers("gateway")] == ["connected"] * 2
    assert all(connection["sent_bytes"] > 4 * MEGABYTE for connection in stage.peers("gateway"))
    assert counted["workers"]["to_core"] < received(stack) / 20
    assert counted["workers"]["dropped"] == counted["workers"]["unanswered"] == 0
    busy = [processor_seconds(pid) for pid in worker_pids(stack)]
    assert min(busy) > max(busy) / 20


def test_workers_have_no_capabilities(stage: Stage) -> None:
    for pid in worker_pids(stage.stack):
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            told = dict(line.rstrip("\n").split(":\t") for line in file if line.startswith(("Cap", "NoNewPrivs")))
        assert [int(told[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")] == [0] * 4
        assert told["NoNewPrivs"] == "1"


def test_a_download_goes_on_when_its_worker_is_killed(stage: Stage) -> None:
    stack = stage.stack
    failed: list[Exception] = []

    def fetch(role: str) -> None:
        try:
            download(stack.lab, 12 * MEGABYTE, role=role, bytes_per_second=4 * MEGABYTE)
        except Exception as error:  # noqa: BLE001  # for the test's own thread
            failed.append(error)

    before, handshakes = workers(stack)["restarts"], stage.peers("gateway")
    fetching = [threading.Thread(target=fetch, args=(role,)) for role in CLIENTS]
    for thread in fetching:
        thread.start()
    sent = stack.status("gateway")["counters"]["udp4"]["datagrams_sent"]
    wait_until(lambda: stack.status("gateway")["counters"]["udp4"]["datagrams_sent"] > sent + 2000, "data flows")
    for pid in worker_pids(stack):
        subprocess.run(["kill", "-9", str(pid)], check=True)
    for thread in fetching:
        thread.join()
    assert failed == []
    wait_until(lambda: workers(stack)["running"] == 2, "both workers run again", [gateway(stack)])
    assert workers(stack)["restarts"] == before + 2
    assert [peer["cid"] for peer in stage.peers("gateway")] == [peer["cid"] for peer in handshakes]
    for role in CLIENTS:
        download(stack.lab, MEGABYTE, role=role)


def test_a_client_with_a_new_key_is_carried_on(stage: Stage) -> None:
    stage.kill("client-2")
    stage.stack.start_client(2)
    download(stage.stack.lab, MEGABYTE, role="client-2")


def test_a_gateway_that_ends_takes_its_workers_along_and_says_goodbye(stage: Stage) -> None:
    for role in CLIENTS:
        download(stage.stack.lab, MEGABYTE, role=role)
    pids = worker_pids(stage.stack)
    for pid in pids:  # as a service manager does
        subprocess.run(["kill", "-TERM", str(pid)], check=True)
    stage.process("gateway").popen.send_signal(signal.SIGTERM)
    assert is_within(lambda: stage.peers("client") == stage.peers("client-2") == [], GOODBYE_SECONDS)
    stage.expect_end("gateway")
    stage.stack.start_gateway()
    wait_until(lambda: workers(stage.stack)["running"] == 2, "both workers run", [gateway(stage.stack)])
    stage.connect()


def test_no_worker_outlives_a_gateway_that_is_killed(stage: Stage) -> None:
    pids = worker_pids(stage.stack)
    assert len(pids) == 2
    stage.kill("gateway")
    wait_until(lambda: not any(is_alive(pid) for pid in pids), "the workers are gone")
    stage.stack.start_gateway()


def gateway(stack: Stack) -> Any:
    return next(process for process in reversed(stack.lab.processes) if process.name == "gateway")


def received(stack: Stack) -> int:
    """By the gateway, from clients and relays."""
    return int(stack.status("gateway")["counters"]["udp4"]["datagrams_received"])


def workers(stack: Stack) -> dict[str, int]:
    found: dict[str, int] = stack.status("gateway")["counters"]["workers"]
    return found


def worker_pids(stack: Stack) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(gateway(stack).pid)], capture_output=True, text=True, check=True
    )
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "workers.process" in line]


def is_alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def processor_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
