"""A machine that a systemd of its own has booted, in a network namespace of a lab: services run as on anybody's host.

systemd-nspawn boots it from a Debian in a folder, which stays as it is: what happens lies in memory and goes with the
machine. Needed are root and a cgroup2 hierarchy in which groups can be made.
"""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.processes import wait_until

PROGRAM: Final = "systemd-nspawn"
PACKAGE: Final = "systemd-container"
#: Where commands are typed.
FOLDER: Final = "/srv/site"
_BOOT_SECONDS: Final = 120.0
_HALT_SECONDS: Final = 120.0  # longer than a relay drains
# Its own network's sysctls are its own, as on a host.
_SETTINGS: Final = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"}
_ENVIRONMENT: Final = (
    "HOME=/root",
    "LC_ALL=C.UTF-8",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND=noninteractive",
    "SYSTEMD_PAGER=cat",
    "SYSTEMD_COLORS=0",
)


class MachineError(Exception):
    """Nothing was booted, or a command failed; the text says how."""


def _hierarchy() -> Path | None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)


def why_none_boots() -> str:
    """What this host lacks, or nothing."""
    hierarchy = _hierarchy()
    if hierarchy is None:
        return "no systemd boots here: no cgroup2 hierarchy is mounted"
    probe = hierarchy / f"postern-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"no systemd boots here: no control group can be made: {error}"
    return ""


@dataclass(frozen=True, slots=True)
class Machine:
    """One that runs."""

    name: str
    leader: int  # its first process, as this host counts

    def run(self, command: str, *, stdin: str = "", seconds: float = 180) -> subprocess.CompletedProcess[str]:
        """Type a shell's command at it, as root."""
        return subprocess.run(
            [
                *("nsenter", "--target", str(self.leader), "--all", "--root", "--wd", "env", "-i", *_ENVIRONMENT),
                *("sh", "-c", f"cd {FOLDER} && {command}"),
            ],
            input=stdin, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip

    def do(self, command: str, *, stdin: str = "") -> str:
        """The same for one that must succeed; what it printed.

        Raises:
            MachineError: it failed, with what it said.
        """
        done = self.run(command, stdin=stdin)
        if done.returncode != 0:
            said = f"{done.stdout}{done.stderr}{self.run('journalctl --boot --lines 40').stdout}"
            raise MachineError(f"{self.name}: {command}: code {done.returncode}: {said}")
        return done.stdout

    def wait(self, command: str, shown: str = "", *, seconds: float = 60) -> str:
        """The same until it succeeds and shows this, as a person would look again."""
        deadline = time.monotonic() + seconds
        while True:
            done = self.run(command)
            if done.returncode == 0 and shown in done.stdout:
                return done.stdout
            if time.monotonic() > deadline:
                self.do(command)
                raise MachineError(f"{self.name}: {command}: shows no {shown!r}: {done.stdout}")
            time.sleep(0.2)  # not before it is asked again

    def property(self, unit: str, name: str) -> str:
        """What systemd says of a unit."""
        return self.do(f"systemctl show --value --property {name} {unit}").strip()


@contextmanager
def booted(name: str, root: Path, namespace: str, binds: list[str]) -> Iterator[Machine]:
    """A machine that is up; ``binds`` are folders of this host that it sees, as nspawn's flags.

    Raises:
        MachineError: it does not come up, with the last that was said.
    """
    hierarchy = _hierarchy()
    if hierarchy is None:
        raise MachineError(why_none_boots())
    group = hierarchy / namespace
    group.mkdir()
    try:
        with tempfile.TemporaryDirectory(prefix="postern-machine-") as folder, ExitStack() as listening:
            told = listening.enter_context(_listening(folder))
            log = Path(folder, "log")
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [*_into(group), *_command(name, root, namespace), *binds],
                    env={"PATH": os.environ["PATH"], "NOTIFY_SOCKET": f"{folder}/notify", **_SETTINGS},
                    stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
            try:
                machine = Machine(name, _leader(told, process, log))
                listening.close()  # what nobody reads would fill, and its first process wait for room in it
                yield machine
            finally:
                process.terminate()  # it halts the machine in order
                try:
                    process.wait(_HALT_SECONDS)
                finally:
                    process.kill()
                    process.wait()
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    """Take a control group away with those in it; what was killed needs a moment to be gone."""
    wait_until(lambda: "populated 0" in (group / "cgroup.events").read_text(), f"{group} is empty", seconds=60)
    for one in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        one.rmdir()
    group.rmdir()


def _into(group: Path) -> list[str]:
    """What begins a command in a control group; it ends with us."""
    script = 'echo $$ >"$0/cgroup.procs" && exec setpriv --pdeathsig TERM "$@"'
    return ["sh", "-c", script, str(group)]


def _command(name: str, root: Path, namespace: str) -> list[str]:
    return [
        *(PROGRAM, "--boot", "--quiet", f"--directory={root}", "--read-only", "--volatile=overlay"),
        *(
            f"--machine={name}",
            f"--hostname={name}",
            "--register=no",
            "--keep-unit",
            "--console=read-only",
            "--notify-ready=yes",
        ),
        *(f"--network-namespace-path=/run/netns/{namespace}", "--resolv-conf=off", "--timezone=off"),
        # As a host's: what a unit gives up is the unit's to say.
        *("--capability=all", "--system-call-filter=bpf perf_event_open @keyring"),
    ]


@contextmanager
def _listening(folder: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(f"{folder}/notify")
        told.settimeout(0.2)
        yield told


def _leader(told: socket.socket, process: subprocess.Popen[bytes], log: Path) -> int:
    """The first process, once all is started that is to be started at boot."""
    leader, deadline = 0, time.monotonic() + _BOOT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            lines = told.recv(4096).decode().split("\n")
        except TimeoutError:
            continue
        leader = next((int(line[20:]) for line in lines if line.startswith("X_NSPAWN_LEADER_PID=")), leader)
        if "READY=1" in lines:
            return leader
    raise MachineError(f"no systemd boots here: {' '.join(log.read_text(errors='replace').split())[-500:]}")
