"""One lab: built on entering, removed on leaving, whatever happened between.

::

    with Lab(LabSettings(client_nat=Nat.SYMMETRIC)) as lab:
        lab.run(lab.user, ["ping", "-c1", "172.20.0.100"])

Its logs lie in ``lab.logs``, a temporary directory that is removed only when all went well.
"""

import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from lab import counters, network
from lab.plan import BACKBONE, SENTINEL, STACK_ROLES, LabSettings, make_plan
from lab.processes import Process, spawn, stop_all
from lab.records import Record, clear, sweep


class Lab:
    """The namespaces of one topology, an attribute for each role, and the programs started in them."""

    def __init__(self, settings: LabSettings | None = None, *, logs: Path | None = None) -> None:
        self.settings = settings or LabSettings()
        self._plan = make_plan(self.settings)
        self._given_logs = logs
        self._kept = False
        self._logs_kept = logs is not None
        self.processes: list[Process] = []

    def __enter__(self) -> Self:
        sweep()
        self._record = Record()
        self._names = {role: self._record.prefix + role for role in self._plan.roles}
        try:
            self.logs = self._make_logs()
            network.build(self._plan, self._names)
            for role, name in self._names.items():
                network.set_nameserver(name, SENTINEL if role == "user" else BACKBONE.address)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._kept:
            self._record.keep(self.logs)
            return
        self._remove()
        # After a failure the logs are what is left to read; an interrupted run is nobody's failure.
        if not self._logs_kept and (kind is None or not issubclass(kind, Exception)):
            shutil.rmtree(self.logs, ignore_errors=True)

    @property
    def run_id(self) -> str:
        return self._record.run_id

    @property
    def client(self) -> str:
        return self._names["client"]

    @property
    def gateway(self) -> str:
        return self._names["gateway"]

    @property
    def relay(self) -> str:
        return self._names["relay"]

    @property
    def portal(self) -> str:
        return self._names["portal"]

    @property
    def resource(self) -> str:
        return self._names["resource"]

    @property
    def user(self) -> str:
        return self._names["user"]

    @property
    def internet(self) -> str:
        return self._names["internet"]

    @property
    def client_nat(self) -> str:
        return self._names["client-nat"]

    @property
    def gateway_nat(self) -> str:
        return self._names["gateway-nat"]

    def namespace(self, role: str) -> str:
        """The namespace of a role by its name, such as ``relay-2``."""
        return self._names[role]

    def run(self, namespace: str, argv: Sequence[str], *, timeout: float = 60) -> str:
        """Run a command to its end and return what it printed; LabError if it fails."""
        return network.execute(namespace, list(argv), timeout=timeout)

    def spawn(self, name: str, namespace: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
        """Start a program that stays until the lab goes (or until it is terminated); it logs to ``logs/name.log``."""
        process = spawn(name, namespace, argv, env or {}, self.logs / f"{name}.log")
        self.processes.append(process)
        return process

    def udp_errors(self, roles: Sequence[str] = STACK_ROLES) -> dict[str, dict[str, int]]:
        """UDP errors that are not zero, by role."""
        return {role: counters.udp_errors(self._names[role]) for role in roles}

    def stop(self) -> None:
        """End what was started, the last first."""
        stop_all(self.processes)

    def keep(self) -> None:
        """Leave everything up on the way out."""
        self._kept = True

    def keep_logs(self) -> None:
        """Leave the logs on the way out."""
        self._logs_kept = True

    def _make_logs(self) -> Path:
        if self._given_logs is not None:
            self._given_logs.mkdir(parents=True, exist_ok=True)
            return self._given_logs
        logs = Path(tempfile.mkdtemp(prefix=f"postern-lab-{self._record.run_id}-"))
        self._record.note(logs)
        return logs

    def _remove(self) -> None:
        with _undisturbed():
            try:
                self.stop()
            finally:
                # Also what a program started beside itself, and what a half-built lab has.
                clear(self._record.prefix)
                self._record.drop()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not leave half a lab behind."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are not ours to handle there, nor do they interrupt us
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
