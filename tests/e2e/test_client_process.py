"""The client's program and the client in another program, with the rest of the stack running beside them.

What a service manager hears, what `--exit` and `--check` do, the status and the log filter of a running process, and
signing in and out within one process.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from lab.measure import first_answer_ms
from lab.plan import LabSettings, Nat, Underlay
from lab.processes import Process, wait_until
from lab.stack import API_URL, Stack
from lab.topology import Lab
from tests.e2e.stage import GOODBYE_SECONDS, POSTERN, is_within, run_to_end, traces

pytestmark = pytest.mark.root

NOBODY: Final = 65534
PROGRAM: Final = """
import asyncio, sys
from client.command import read_settings
from client.session import Configured, Device

async def main():
    settings = read_settings([])
    device = Device(settings.tunnel, settings.dns_control)
    for _ in range(2):
        async with device.sign_in(settings.tunnel.token) as session:
            async for event in session.events():
                if isinstance(event, Configured):
                    print("configured", flush=True)
                    await asyncio.to_thread(sys.stdin.readline)
                    session.sign_out()
            print("ended", flush=True)
            await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """All but the client."""
    with Lab(LabSettings(Nat.NONE, Nat.NONE, Underlay.IPV4)) as lab:
        stack = Stack(lab, ebpf=False)
        stack.start_nameserver()
        stack.start_portal()
        stack.start_relay()
        stack.start_gateway()
        stack.start_resource()
        yield stack


@pytest.fixture
def env(stack: Stack) -> dict[str, str]:
    return {
        "FIREZONE_API_URL": API_URL,
        "FIREZONE_TOKEN": stack.tokens.client,
        "FIREZONE_ID": "a-laptop",
        "FIREZONE_NAME": "laptop",
        "FIREZONE_DNS_CONTROL": "disabled",
        "POSTERN_STATUS_SOCKET": "off",
        "PATH": os.environ["PATH"],
    }


def peers(stack: Stack) -> list[dict[str, Any]]:
    """The connections that the gateway has."""
    found: list[dict[str, Any]] = stack.status("gateway")["connections"]
    return found


def test_it_ends_once_the_tunnel_is_there_and_leaves_nothing(stack: Stack, env: dict[str, str]) -> None:
    before = traces(stack.lab.client)
    done = run_to_end(stack.lab.client, ["client", "standalone", "--exit"], env)
    assert done.code == 0, done.errors
    assert "Tunnel ready" in done.errors
    assert "Goodbye!" in done.errors
    assert traces(stack.lab.client) == before


def test_a_check_contacts_nobody(stack: Stack, env: dict[str, str]) -> None:
    done = run_to_end(stack.lab.client, ["client", "--check"], env | {"FIREZONE_API_URL": "ws://203.0.113.254:9"})
    assert (done.code, done.output, done.errors) == (0, "", "")


def test_what_a_running_one_tells(stack: Stack, env: dict[str, str], tmp_path: Path) -> None:
    control, logs, heard = tmp_path / "client.sock", tmp_path / "log", tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(heard))
        manager.settimeout(60)
        settings = {"POSTERN_STATUS_SOCKET": str(control), "LOG_DIR": str(logs), "NOTIFY_SOCKET": str(heard)}
        process = stack.lab.spawn("client-told", stack.lab.client, [*POSTERN, "client"], env | settings)
        assert manager.recv(100) == b"READY=1"
        first_answer_ms(stack.lab)

        wait_until(lambda: " direct " in ask(process, control, "status"), "the path is the direct one", [process])
        shown = ask(process, control, "status")
        assert shown.startswith("client  laptop (")
        assert "joined for" in shown
        told = json.loads(ask(process, control, "status", "--json"))
        (connection,) = told["connections"]
        assert connection["state"] == "connected"
        assert 0 < connection["round_trip_ms"] < 5000
        assert connection["received_bytes"] > 0
        (used,) = (row for row in told["resources"] if row["gid"] is not None)
        assert (used["state"], used["gid"]) == ("online", connection["gid"])

        assert "wire::" not in process.log_text()
        process.popen.send_signal(signal.SIGUSR1)
        wait_until(lambda: "filter=info,wire=trace" in process.log_text(), "the wire log is on", [process])
        first_answer_ms(stack.lab)
        for target in ("net::recv: Received", "net::send: Sending", "dev::recv: Read", "dev::send: Writing"):
            assert f"TRACE wire::{target} src=" in process.log_text()
        process.popen.send_signal(signal.SIGUSR1)
        wait_until(lambda: "filter=info\n" in process.log_text(), "the wire log is off", [process])
        ask(process, control, "log", "debug")
        assert "filter=debug" in process.log_text()

        refused = ask_as_nobody(process, control)
        assert f"the status socket {control} is for user root, and this is user " in refused
        assert process.terminate() == 0
        assert manager.recv(100) == b"STOPPING=1"
    assert not control.exists()
    file = logs / "postern-client.jsonl"
    assert file.stat().st_mode & 0o777 == 0o640
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {"Tunnel ready", "Goodbye!"} <= {line["message"] for line in lines}
    assert stack.tokens.client not in file.read_text()


def test_another_program_signs_in_and_out_and_in_again(stack: Stack, env: dict[str, str]) -> None:
    before = traces(stack.lab.client)
    program = subprocess.Popen(
        ["ip", "netns", "exec", stack.lab.client, sys.executable, "-c", PROGRAM],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    seen = []
    try:
        assert program.stdin is not None
        assert program.stdout is not None
        for turn in range(2):
            assert program.stdout.readline() == "configured\n"
            first_answer_ms(stack.lab)
            seen += [peer["cid"] for peer in peers(stack)]
            program.stdin.write("\n")
            program.stdin.flush()
            assert program.stdout.readline() == "ended\n"
            assert is_within(lambda: peers(stack) == [], GOODBYE_SECONDS)  # the goodbye had left
            if turn == 0:  # nothing of the session is left but the program
                left = traces(stack.lab.client)
                assert {**left, "processes": []} == {**before, "processes": []}
            program.stdin.write("\n")
            program.stdin.flush()
        assert program.wait(30) == 0
    finally:
        program.kill()
        program.communicate()
    assert len(seen) == 2
    assert seen[0] == seen[1]  # the same device


def ask(process: Process, control: Path, *words: str) -> str:
    """What the command about the running one prints."""
    process.check()
    done = subprocess.run(
        [*POSTERN, "client", *words, "--status-socket", str(control)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask_as_nobody(process: Process, control: Path) -> str:
    process.check()
    command = ["setpriv", "--reuid", str(NOBODY), "--clear-groups", *POSTERN, "client", "status"]
    done = subprocess.run(
        [*command, "--status-socket", str(control)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 1
    return done.stderr
