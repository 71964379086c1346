"""What the start of a service does not wait for: clients of one that is started anew wait for its imports, too."""

import os
import socket
import subprocess
import sys
from typing import Final

import pytest

# Heavy, and of no use before the portal has answered.
LATE: Final = frozenset(
    {"pyroute2", "aiohttp.web", "opentelemetry", "bcc", "yaml", "dns", "ebpf", "connectivity.io.host"}
)
_ASK: Final = """
import sys
from connectivity.io import portal
def ask(*_, **__):
    print("asked", *sorted({late!r} & sys.modules.keys()))
    raise SystemExit(0)
portal.PortalLink = ask
import {command}
{command}.run([])
"""


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def imported(code: str, **environ: str) -> list[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FIREZONE_", "POSTERN_"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env | environ, check=False)
    assert not done.returncode, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(("service", "more"), [("relay", set()), ("gateway", {"numpy", "connectivity.node"})])
def test_what_is_needed_later_is_imported_after_the_portal_is_asked(service: str, more: set[str]) -> None:
    found = imported(
        _ASK.format(late=LATE | more, command=f"{service}.command"),
        FIREZONE_TOKEN="of-no-portal",
        FIREZONE_API_URL="ws://127.0.0.1:9",
        PUBLIC_IP4_ADDR="127.0.0.1",
        LISTEN_PORT=str(free_port()),
    )
    assert found == ["asked"]


def test_a_relay_binds_its_sockets_before_it_can_talk_to_a_portal() -> None:
    late = {"aiohttp", "cryptography", "connectivity.node"}
    assert imported(f"import relay.command, sys; print(*sorted({late} & sys.modules.keys()))") == []
