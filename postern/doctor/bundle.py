"""``postern doctor --bundle FILE``: what a bug report needs of a host, in one archive, with secrets taken out."""

import io
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from connectivity.errors import FatalError, chain
from connectivity.io.local_client import LocalService
from connectivity.settings import SOCKET_FOLDER
from postern.doctor import hiding, start_up
from postern.doctor.hiding import Hiding

_COMMANDS: Final = (
    "uname -a", "cat /etc/os-release", "ip -details address", "ip rule", "ip route show table all",
    "ip -6 route show table all", "ip neighbour", "ss --listening --tcp --udp --numeric", "nft list ruleset",
    "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv6.conf.all.disable_ipv6",
    "sysctl net.ipv4.conf.all.rp_filter net.ipv4.conf.all.src_valid_mark net.core.rmem_max net.core.wmem_max",
    "nstat --zeros UdpRcvbufErrors UdpSndbufErrors Udp6RcvbufErrors Udp6SndbufErrors",
    "systemctl --no-pager status postern-*", "journalctl --no-pager --lines 5000 --unit postern-*",
)  # fmt: skip
_LOGS: Final = Path("/var/log/postern")
_CLIENTS_TOKEN: Final = Path("/etc/dev.firezone.client/token")
_COMMAND_SECONDS: Final = 20
_MOST_BYTES: Final = 4 << 20  # of one file; of a log its end
_QUESTIONS: Final = {"client": "/status", "gateway": "/status", "relay": "/offload", "portal": "/status"}


def write(path: Path, report: dict[str, Any]) -> None:
    """Write the archive; only its owner may read it, and no file is overwritten.

    Raises:
        FatalError: it cannot be written there.
    """
    hide = Hiding(_known_secrets())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise FatalError(f"cannot write {path}") from error
    with os.fdopen(descriptor, "wb") as opened, tarfile.open(fileobj=opened, mode="w:gz") as archive:
        for name, text in [("doctor.json", json.dumps(report, indent=2)), *_collect(hide)]:
            content = hide.text(text).encode()
            entry = tarfile.TarInfo(f"postern-doctor/{name}")
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))


def _known_secrets() -> Iterator[str]:
    yield from (value for name, value in os.environ.items() if hiding.is_secret(name) and not value.startswith("/"))
    for service in _QUESTIONS:
        values = start_up.settings_of(service)
        yield from (value for name, value in values.items() if hiding.is_secret(name) and not value.startswith("/"))
        yield from _lines(Path(path) for name, path in values.items() if "TOKEN" in name and path.startswith("/"))
    yield from _lines([*start_up.FOLDER.glob("*.token"), _CLIENTS_TOKEN])
    for file in _settings_files():
        try:
            document = yaml.safe_load(_read(file))
        except (yaml.YAMLError, ValueError, RecursionError):
            continue  # then it is left out as a whole, too
        yield from hiding.secrets_of(document)
        yield from _lines(file.parent / path for path in hiding.token_files_of(document))


def _lines(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        yield from _read(path).split()


def _settings_files() -> list[Path]:
    """The YAML files of portal and relay."""
    named = [start_up.settings_of("portal").get("POSTERN_PORTAL_CONFIG")]
    named.append(start_up.settings_of("relay").get("POSTERN_RELAY_CONFIG"))
    found = [Path(path) for path in named if path] + sorted(start_up.FOLDER.glob("*.yaml"))
    return list(dict.fromkeys(path for path in found if path.is_file()))


def _collect(hide: Hiding) -> Iterator[tuple[str, str]]:
    """The parts by their names."""
    ours = sorted((name, value) for name, value in os.environ.items() if _is_ours(name))
    yield "environment", hide.variables(ours)
    for path in sorted(start_up.FOLDER.glob("*.env")):
        pairs = re.findall(r"^(\w+)=(.*)$", _read(path), re.MULTILINE)
        yield f"settings/{path.name}", hide.variables(pairs)
    for path in _settings_files():
        yield f"settings/{path.name}", hide.document(_read(path))
    for path in sorted(_LOGS.glob("*.jsonl*")):
        yield f"logs/{path.name}", _read(path)
    for service, target in _QUESTIONS.items():
        yield f"status/{service}.json", _status(service, target)
    for command in _COMMANDS:
        yield f"host/{re.sub(r'[^A-Za-z0-9]+', '-', command[:48]).strip('-')}", _told(command)


def _is_ours(name: str) -> bool:
    return name.startswith((*start_up.PREFIXES, "EBPF_", "OTEL_", "OTLP_", "RUST_LOG", "LOG_", "LISTEN_PORT"))


def _read(path: Path) -> str:
    """The end of a file, or why it is not here."""
    try:
        with path.open("rb") as opened:
            opened.seek(max(0, path.stat().st_size - _MOST_BYTES))
            return opened.read().decode(errors="replace")
    except OSError as error:
        return f"# {error.strerror}\n"


def _status(service: str, target: str) -> str:
    try:
        return json.dumps(
            LocalService(service, "socket", SOCKET_FOLDER / f"{service}.sock").ask("GET", target), indent=2
        )
    except FatalError as error:
        return chain(error)


def _told(command: str) -> str:
    try:
        done = subprocess.run(
            command.split(), capture_output=True, text=True, errors="replace", timeout=_COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return chain(error)
    return (done.stdout + done.stderr)[-_MOST_BYTES:]
