"""What a unit in ``dist/`` may not do and root, who asks the doctor, may: read a file, take a low port, offload."""

import os
import pwd
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from connectivity.errors import FatalError
from connectivity.io.privileges import FIRST_FREE_PORT
from connectivity.settings import SettingsError
from postern.doctor.finding import Finding, remark

USER: Final = "postern"
_UNITS: Final = (Path("/etc/systemd/system"), Path("/lib/systemd/system"))
_OFFLOAD: Final = "/usr/share/postern/postern-relay-offload.conf"  # from the package
_RELAY: Final = "postern-relay.service"
_FREE_FROM: Final = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def examine(file: Path, load: Callable[[Path], object], ports: Iterable[int]) -> list[Finding]:
    """Read a file, and all that it names, as that user; nothing where there is no such user, or we are not root."""
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        return []
    if os.geteuid() != 0:
        return []
    try:
        with _acting_as(user):
            load(file)
    except (SettingsError, FatalError) as error:
        said = error.problems if isinstance(error, SettingsError) else [str(error)]
        remedy = (
            f"the unit runs as {USER}: chgrp {USER} and chmod 640 what it reads; copy what lies in folders of root's"
        )
        return [Finding(problem, remedy) for problem in said]
    free_from = _free_from()
    return [
        remark(
            f"port {port} is below {free_from}, and the unit of itself has no privilege",
            "AmbientCapabilities=CAP_NET_BIND_SERVICE, and the same as CapabilityBoundingSet, in a drop-in",
        )
        for port in sorted({port for port in ports if 0 < port < free_from})
    ]


def examine_offload() -> list[Finding]:
    """Whether the relay's unit, if there is one here, has what XDP takes."""
    if not any((folder / _RELAY).exists() for folder in _UNITS):
        return []
    drop_ins = [file for folder in _UNITS for file in (folder / f"{_RELAY}.d").glob("*.conf")]
    if any("CAP_BPF" in file.read_text(encoding="utf-8", errors="replace") for file in drop_ins):
        return []
    remedy = f"{_OFFLOAD} into {_UNITS[0]}/{_RELAY}.d, systemctl daemon-reload, and a restart"
    return [Finding("XDP is asked for, and the unit has no privilege for it", remedy)]


@contextmanager
def _acting_as(user: pwd.struct_passwd) -> Iterator[None]:
    """As that user opens files; the doctor has one thread, and nothing that it does meanwhile needs more."""
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def _free_from() -> int:
    try:
        return int(_FREE_FROM.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return FIRST_FREE_PORT
