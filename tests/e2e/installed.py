"""Services as their packages install them in a Debian of their own, started as systemd would by their units.

A unit's command, user, capabilities, environment, credentials, folders and notification are taken from the installed
unit. What systemd forbids besides (system calls, devices, file systems) is not enforced here.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lab.processes import Process, wait_until
from lab.topology import Lab
from tests.e2e.engine import run

_START_SECONDS: Final = 30.0
_FOLDERS: Final = {"RuntimeDirectory": "run", "StateDirectory": "var/lib", "CacheDirectory": "var/cache"} | {
    "LogsDirectory": "var/log"
}
_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"} | {
    "DEBIAN_FRONTEND": "noninteractive"
}
_TUN_NUMBER: Final = os.makedev(10, 200)


@dataclass(frozen=True, slots=True)
class Unit:
    """The section ``[Service]`` of a unit: each key with all its values."""

    settings: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Unit":
        unit = cls()
        section = path.read_text().partition("[Service]\n")[2].partition("\n[")[0]
        for key, value in re.findall(r"^(\w+)=(.*)$", section, re.MULTILINE):
            unit.settings.setdefault(key, []).append(value)
        return unit

    def last(self, key: str, default: str = "") -> str:
        return self.settings.get(key, [default])[-1]


class Installed:
    """A Debian in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *words: str, seconds: float = 300) -> str:
        """Run a command in it to the end; what it printed."""
        return run(["chroot", str(self.root), *words], _ENVIRONMENT, seconds=seconds)

    def run_at(self, namespace: str, command: str) -> subprocess.CompletedProcess[str]:
        """Run a shell's command in it and in a network namespace, with ``/proc``, where the packages lie."""
        return subprocess.run(
            ["ip", "netns", "exec", namespace, *self._entering(), "sh", "-c", f"cd /packages && {command}"],
            env=_ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def _entering(self, mask: str = "0022") -> list[str]:
        """What begins a command in it; it is in a mount namespace of its own by ``ip netns exec``."""
        script = 'umask "$1"; mount -t proc proc "$2/proc" && root=$2 && shift 2 && exec chroot "$root" "$@"'
        return ["sh", "-c", script, "sh", mask, str(self.root)]

    def path(self, absolute: str) -> Path:
        return self.root / absolute.lstrip("/")

    def start(self, lab: Lab, service: str, namespace: str) -> Process:
        """Start a service by its unit and wait until it says that it is ready, if its unit lets it."""
        unit = Unit.read(self.path(f"/lib/systemd/system/postern-{service}.service"))
        user = unit.last("User", "root")
        self._make_folders(unit, user)
        env = self._environment(service, unit, user)
        notified = self._notification(service) if unit.last("Type") == "notify" else None
        if notified is not None:
            env["NOTIFY_SOCKET"] = f"/run/{service}.notify"
        command = [*_privileges(unit, user), *shlex.split(unit.last("ExecStart"))]
        wrapped = [*self._entering(unit.last("UMask", "0022")), *command]
        process = lab.spawn(f"installed-{service}", namespace, wrapped, env)
        if notified is not None:
            with notified:
                notified.setblocking(False)
                wait_until(lambda: _is_ready(notified), f"{service} says it is ready", [process], _START_SECONDS)
        return process

    def prepare_device(self) -> None:
        """The node that a client's or gateway's unit lets it use."""
        self.path("/dev/net").mkdir(exist_ok=True)
        os.mknod(self.path("/dev/net/tun"), 0o20666, _TUN_NUMBER)
        self.path("/dev/net/tun").chmod(0o666)

    def own(self, path: Path, user: str, mode: int) -> None:
        self.run("chown", f"{user}:{user}", f"/{path.relative_to(self.root)}")
        path.chmod(mode)

    def _make_folders(self, unit: Unit, user: str) -> None:
        for key, parent in _FOLDERS.items():
            if name := unit.last(key):
                folder = self.root / parent / name
                folder.mkdir(parents=True, exist_ok=True)
                self.own(folder, user, int(unit.last(f"{key}Mode", "0755"), 8))

    def _environment(self, service: str, unit: Unit, user: str) -> dict[str, str]:
        folder = self.root / f"run/credentials/postern-{service}.service"
        folder.mkdir(parents=True, exist_ok=True)
        for entry in unit.settings.get("LoadCredential", []):
            name, _, source = entry.partition(":")
            (folder / name).unlink(missing_ok=True)
            shutil.copy(self.path(source), folder / name)
            self.own(folder / name, user, 0o400)
        lines = [word for value in unit.settings.get("Environment", []) for word in shlex.split(value)]
        for value in unit.settings.get("EnvironmentFile", []):
            lines += re.findall(r"^\w+=.*$", self.path(value.removeprefix("-")).read_text(), re.MULTILINE)
        inside = f"/{folder.relative_to(self.root)}"
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CREDENTIALS_DIRECTORY": inside} | {
            name: value.replace("%d", inside) for name, _, value in (line.partition("=") for line in lines)
        }

    def _notification(self, service: str) -> socket.socket:
        path = self.root / f"run/{service}.notify"
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listening.bind(str(path))
        path.chmod(0o666)
        return listening


def _privileges(unit: Unit, user: str) -> Sequence[str]:
    """A command that becomes the user with the capabilities of the unit and no others."""
    names = [name.removeprefix("CAP_").lower() for name in unit.last("CapabilityBoundingSet").split()]
    bounding = ",".join(["-all", *(f"+{name}" for name in names)])
    words = ["setpriv", f"--bounding-set={bounding}", "--no-new-privs"]
    if user != "root":
        ambient = [name.removeprefix("CAP_").lower() for name in unit.last("AmbientCapabilities").split()]
        kept = ",".join(["-all", *(f"+{name}" for name in ambient)])
        words += [f"--reuid={user}", f"--regid={user}", "--clear-groups", f"--inh-caps={kept}"]
        words += [f"--ambient-caps={kept}"] if ambient else []
    return words


def _is_ready(notified: socket.socket) -> bool:
    try:
        return b"READY=1" in notified.recv(4096).split(b"\n")
    except BlockingIOError:
        return False
