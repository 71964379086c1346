"""A container engine for tests: the one that runs, or Debian's, started in a network namespace of its own.

An engine rewrites its host's firewall and bridges; in its own namespace all of that goes with it. Such a namespace
leads nowhere, so images are built before, by the same engine in the host's namespace with its networking switched off.
"""

import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests import apt
from tests.e2e.archive import package_archive

PROGRAMS: Final = ("dockerd", "docker", "docker-compose", "debootstrap")
PACKAGES: Final = ("docker.io", "docker-compose", "debootstrap")
SUITE: Final = "bookworm"
REGISTRY_IMAGE: Final = "debian:12-slim"
_ROOT: Final = Path(__file__).resolve().parents[2]
_CERTIFICATES: Final = Path("/usr/local/share/ca-certificates")
_LEFT_OUT: Final = (".git", ".venv", "*_cache", "__pycache__", ".hypothesis", "build")
_START_SECONDS: Final = 60.0
_WITHOUT_NETWORK: Final = ("--bridge", "none", "--iptables=false", "--ip-forward=false")
_POLICY: Final = Path("/usr/sbin/policy-rc.d")


class EngineError(Exception):
    """No engine, or it refused; the text says why."""


def run(command: Sequence[str], env: Mapping[str, str] | None = None, *, seconds: float = 120) -> str:
    """Run to the end; what it printed.

    Raises:
        EngineError: it failed, with the end of what it said.
    """
    done = subprocess.run(
        command, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=seconds, check=False
    )
    if done.returncode != 0:
        raise EngineError(f"{' '.join(command)}: code {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


class Engine:
    """Where to reach the engine; ``namespace`` is its network namespace if it is ours."""

    def __init__(self, state: Path | None) -> None:
        self._state = state
        self._pid = 0
        self.namespace = f"postern-engine-{uuid.uuid4().hex[:6]}" if state else ""
        # The classic builder, which every engine has.
        self.env = {"DOCKER_BUILDKIT": "0", "COMPOSE_PROJECT_NAME": f"postern-{uuid.uuid4().hex[:6]}"}
        if state is not None:
            self.env["DOCKER_HOST"] = f"unix://{state}/socket"

    @functools.cached_property
    def compose(self) -> list[str]:
        """Whichever compose is there: the plug-in of Docker's command line, or the program that was before it."""
        try:
            self.docker("compose", "version")
        except EngineError:
            return ["docker-compose"] if shutil.which("docker-compose") else []
        return ["docker", "compose"]

    @property
    def is_ours(self) -> bool:
        return self._state is not None

    def docker(self, *words: str, seconds: float = 120) -> str:
        return run(["docker", *words], self.env, seconds=seconds)

    def where(self) -> list[str]:
        """What leads a command into the engine's network namespace."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}"] if self.namespace else []

    def start(self, *, can_build: bool) -> None:
        """Start our engine, for building images or for running containers; replaces one that runs."""
        if self._state is None:
            return
        self.stop()
        where = [] if can_build else self.where()
        with (self._state / "log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *where, "dockerd", "--config-file", self._state / "config", "--data-root", self._state / "data",
                    "--exec-root", self._state / "exec", "--pidfile", self._state / "pid",
                    "--host", self.env["DOCKER_HOST"], "--cgroup-parent", self.namespace,
                    *(_WITHOUT_NETWORK if can_build else ()),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._process = process
        self._pid = process.pid
        deadline = time.monotonic() + _START_SECONDS
        while not self.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                said = (self._state / "log").read_text(errors="replace")[-2000:]
                raise EngineError(f"dockerd does not start: {said}")
            time.sleep(0.2)  # it tells nobody when it listens

    def stop(self) -> None:
        """Stop our engine."""
        if self._pid:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(60)
            self._pid = 0
            # The engine leaves its own network namespace mounted.
            for line in Path("/proc/self/mounts").read_text().splitlines():
                if line.split()[1].startswith(f"{self._state}/exec/netns/"):
                    run(["umount", line.split()[1]])

    def answers(self) -> bool:
        """Whether it is there and listens."""
        try:
            self.docker("version", "--format", "{{.Server.Version}}")
        except EngineError:
            return False
        return True


@contextmanager
def container_engine() -> Iterator[Engine]:
    """An engine that builds; afterwards nothing of it is left."""
    running = Engine(None)
    if shutil.which("docker") and running.answers() and running.compose:
        yield running
        return
    install(PROGRAMS, PACKAGES)
    state = Path(tempfile.mkdtemp(prefix="postern-engine-"))
    (state / "config").write_text("{}")
    engine = Engine(state)
    run(["ip", "netns", "add", engine.namespace])
    run(["ip", "-n", engine.namespace, "link", "set", "lo", "up"])
    try:
        engine.start(can_build=True)
        yield engine
    finally:
        engine.stop()
        run(["ip", "netns", "delete", engine.namespace])
        shutil.rmtree(state)  # before the groups, which stay busy after an interrupted build
        for group in sorted(Path("/sys/fs/cgroup").glob(f"**/{engine.namespace}"), reverse=True):
            group.rmdir()


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where images are built: an engine, a copy of the project with this machine's certificates, a base image."""

    engine: Engine
    folder: Path
    base: str

    def build(self, target: str) -> tuple[str, str]:
        """Build one image, or find it built: its name, and what the engine said."""
        name = f"postern-test/{target}"
        words = ["--file", f"{self.folder}/compose/Dockerfile", "--network", "host", "--build-arg", f"BASE={self.base}"]
        return name, self.engine.docker(
            "build", *words, "--target", target, "--tag", name, str(self.folder), seconds=900
        )


@contextmanager
def image_workshop(folder: Path) -> Iterator[Workshop]:
    """A workshop in a folder that is not there yet."""
    shutil.copytree(_ROOT, folder, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    for certificate in _CERTIFICATES.glob("*.crt"):
        shutil.copy(certificate, folder / "compose/ca-certificates")
    with container_engine() as engine:
        yield Workshop(engine, folder, _make_base_image(engine))


def _make_base_image(engine: Engine) -> str:
    """The image that ours are built on: the registry's, or the same by debootstrap where no registry is reachable."""
    try:
        engine.docker("pull", "--quiet", REGISTRY_IMAGE, seconds=120)
    except (EngineError, subprocess.TimeoutExpired):
        pass  # no registry: as below
    else:
        return REGISTRY_IMAGE
    name = "postern-test/base"
    with tempfile.TemporaryDirectory(prefix="postern-base-") as folder:
        root = Path(folder, "root")
        make_root(root)
        tree = Path(folder, "root.tar")
        lists = ("./var/cache/apt/*", "./var/lib/apt/lists/*", "./usr/share/doc/*", "./usr/share/locale/*")
        excluded = [f"--exclude={pattern}" for pattern in lists]
        run(["tar", "--directory", str(root), *excluded, "--create", "--file", str(tree), "."])
        engine.docker("import", str(tree), name)
    return name


def make_root(root: Path) -> None:
    """A fresh Debian in a folder. Its source of packages is this machine's; unpacking them flushes nothing to disk."""
    run(["debootstrap", "--variant=minbase", SUITE, str(root), package_archive(SUITE)], seconds=600)
    # As in the registry's image: no package lists of other languages.
    (root / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
    (root / "etc/apt/apt.conf.d/no-languages").write_text('Acquire::Languages "none";\n')


def install(programs: Sequence[str], packages: Sequence[str]) -> None:
    """Debian's packages where one of their programs is missing; no service of them is started in the host's network."""
    with apt.alone():
        if all(shutil.which(program) for program in programs):
            return
        is_mine = not _POLICY.exists()
        if is_mine:
            _POLICY.write_text("#!/bin/sh\nexit 101\n")
            _POLICY.chmod(0o755)
        try:
            quiet = {"DEBIAN_FRONTEND": "noninteractive"}
            run(["apt-get", "update", "-qq"], quiet, seconds=300)
            run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], quiet, seconds=600)
        finally:
            if is_mine:
                _POLICY.unlink()
