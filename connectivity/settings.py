"""Settings from environment variables and flags, validated once, all problems reported together.

A service declares each setting while reading it::

    reader = SettingsReader("relay", arguments, environ)
    config = Config(api_url=reader.required("FIREZONE_API_URL", "--api-url", url), ...)
    reader.finish()

``finish`` raises ``SettingsError`` naming every problem, or ``HelpRequested``. Until it has returned, values may be
placeholders: build plain dataclasses with them, start nothing.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

T = TypeVar("T")

# Names under our prefix that any service accepts, because a shared env file configures several of them.
KNOWN_POSTERN_NAMES: Final = frozenset(
    {
        "POSTERN_ADMIN_SOCKET",
        "POSTERN_DRAIN_SECONDS",
        "POSTERN_EBPF",
        "POSTERN_EBPF_GENERIC_FROM_PEER",
        "POSTERN_EBPF_INTERFACES",
        "POSTERN_FORWARD",
        "POSTERN_METRICS_ADDR",
        "POSTERN_NATIVE",
        "POSTERN_PEERS_ALLOW",
        "POSTERN_PEERS_DENY",
        "POSTERN_PORTAL_CONFIG",
        "POSTERN_PORTAL_STATE",
        "POSTERN_PUBLIC_ADDRESSES",
        "POSTERN_RELAY_CONFIG",
        "POSTERN_STATUS_ADDR",
        "POSTERN_STATUS_SOCKET",
        "POSTERN_TRUSTED_PROXIES",
        "POSTERN_TUN_OFFLOADS",
        "POSTERN_UDP_OFFLOADS",
        "POSTERN_WORKERS",
    }
)
SOCKET_FOLDER: Final = Path("/run/postern")
# No portal of either kind makes tokens so short of nothing but letters.
_BARE_WORD: Final = re.compile(r"[A-Za-z][A-Za-z_-]{0,14}")
VISIBLE_TOKEN: Final = "Every user of this host can read the token in the process list: give the path of a file instead"
# As Firezone's programs take them, but for what is shorter than a second or longer than a week.
_TIME_UNITS: Final = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604_800.0),
}
_TIME_PART: Final = re.compile(
    rf"(\d{{1,9}})\s*({'|'.join(sorted(_TIME_UNITS, key=len, reverse=True))})(?![a-z])", re.ASCII
)
_HUMAN_TIME: Final = re.compile(rf"\s*(?:{_TIME_PART.pattern}\s*)+", re.ASCII)
_KUBERNETES_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$")
_KUBERNETES_PORT_LINK = re.compile(r"_PORT(_[A-Z0-9_]+)?$")


@dataclass(frozen=True, slots=True)
class LocalSocket:
    """Where to serve people on this host, None for nowhere; if ``is_demanded``, failing is fatal."""

    path: Path | None
    is_demanded: bool = False

    def __str__(self) -> str:
        return str(self.path)


class SettingsError(Exception):
    """All that is wrong with the settings, in one line. A usage error: exit code 2."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Declared:
    """A setting as ``--help`` shows it; a switch takes no value."""

    name: str | None
    flag: str | None
    help: str
    default: str
    is_switch: bool = False


class HelpRequested(Exception):
    """``--help`` was given; the text is the answer, ``declared`` what it is made of. Exit code 0."""

    def __init__(self, text: str, declared: Sequence[Declared] = ()) -> None:
        super().__init__(text)
        self.declared = tuple(declared)


class SettingsReader:
    """Reads one service's settings; flags win over the environment, an empty variable counts as unset."""

    def __init__(self, service: str, arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        self._service = service
        self._environ = os.environ if environ is None else environ
        self.given: list[str] = []  # the settings found so far that are no switches, as they were given
        self.warnings: list[str] = []  # what is allowed and unwise, to be logged once there is a log
        self._declared: list[Declared] = []
        self._problems: list[str] = []
        self._flags, self._switches, self._positional, self._help = _split_arguments(arguments)

    def required(self, name: str | None, flag: str | None, parse: Callable[[str], T], text: str = "") -> T:
        """A setting without a default. ``parse`` raises ValueError with the expectation as its text."""
        found = self._lookup(name, flag, text, "required")
        if found is None:
            where = f"{name} (or {flag})" if name and flag else name or flag
            self._problems.append(f"{where} is not set: expected {text or 'a value'}")
            return cast(T, None)
        return self._parse(found, parse, cast(T, None))

    def optional(self, name: str | None, flag: str | None, parse: Callable[[str], T], default: T, text: str = "") -> T:
        """A setting with a default; ``default`` is returned as it is, unparsed."""
        found = self._lookup(name, flag, text, _shown(default))
        return default if found is None else self._parse(found, parse, default)

    def switch(self, name: str | None, flag: str | None, text: str = "", default: bool = False) -> bool:
        """A boolean: ``--flag`` or ``NAME=true|false``."""
        self._declared.append(Declared(name, flag, text, str(default).lower(), is_switch=True))
        if flag is not None and flag in self._switches:
            self._switches.discard(flag)
            return True
        value = self._flags.pop(flag, None) if flag is not None else None
        if value is not None:
            try:
                return boolean(value)
            except ValueError:
                self._positional.insert(0, value)  # the word behind a bare switch was not its value
                return True
        value = self._environ.get(name, "") if name is not None else ""
        return self._parse((str(name), value), boolean, default) if value else default

    def token_argument(self, word: str) -> str:
        """A token, or the path of a file with one, given as an argument."""
        try:
            token = token_argument(word)
        except ValueError as error:
            self._problems.append(f"the token argument: {error}")
            return ""
        if token == word:
            self.warnings.append(VISIBLE_TOKEN)
        return token

    def positional(self) -> list[str]:
        """The arguments that belong to no flag, in order; a service that takes none must not call this."""
        taken, self._positional = self._positional, []
        return taken

    def problem(self, text: str) -> None:
        """Report a problem that spans several settings."""
        self._problems.append(text)

    def finish(self) -> None:
        """Raise what was found.

        Raises:
            HelpRequested: ``--help`` or ``-h`` was given.
            SettingsError: at least one problem, among them flags and ``POSTERN_`` variables that nobody knows.
        """
        if self._help:
            raise HelpRequested(self._usage(), self._declared)
        leftover = [*self._flags, *self._switches]
        self._problems += [f"{flag} is not a flag of postern {self._service}" for flag in leftover]
        self._problems += [f"{word!r} is not expected here" for word in self._positional]
        known = KNOWN_POSTERN_NAMES | {entry.name for entry in self._declared if entry.name}
        for name, value in self._environ.items():
            if name.startswith("POSTERN_") and name not in known and not _foreign(name, value):
                self._problems.append(f"{name} is not a known setting")
        if self._problems:
            raise SettingsError(self._problems)

    def _lookup(self, name: str | None, flag: str | None, text: str, default: str) -> tuple[str, str] | None:
        self._declared.append(Declared(name, flag, text, default))
        if flag is not None and flag in self._flags:
            self.given.append(flag)
            return flag, self._flags.pop(flag)
        if flag is not None and flag in self._switches:
            self._switches.discard(flag)
            self._problems.append(f"{flag} needs a value")
            return None
        value = self._environ.get(name, "") if name is not None else ""
        if not value:
            return None
        self.given.append(str(name))
        return str(name), value

    def _parse(self, found: tuple[str, str], parse: Callable[[str], T], fallback: T) -> T:
        name, value = found
        try:
            return parse(value)
        except ValueError as error:
            shown = "(hidden)" if "TOKEN" in name.upper() or "SECRET" in name.upper() else repr(value)
            self._problems.append(f"{name} is {shown}: {error}")
            return fallback

    def _usage(self) -> str:
        rows = [f"usage: postern {self._service} [flags]", ""]
        for entry in self._declared:
            names = " or ".join(part for part in (entry.flag, entry.name) if part)
            default = f" [{entry.default}]" if entry.default else ""
            rows.append(f"  {names}{default}\n      {entry.help}".rstrip())
        return "\n".join(rows)


def _shown(default: object) -> str:
    """A default as one would write it."""
    if type(default) in {frozenset, tuple}:  # not an Endpoint, which prints itself
        return ",".join(sorted(map(str, cast(Collection[object], default))))
    return "" if default is None else str(default)


def boolean(text: str) -> bool:
    """``true`` or ``false`` (also 1/0, yes/no, on/off)."""
    lowered = text.lower()
    if lowered in {"true", "1", "yes", "on"}:
        return True
    if lowered in {"false", "0", "no", "off"}:
        return False
    raise ValueError("expected true or false")


def integer(lowest: int, highest: int) -> Callable[[str], int]:
    """A parser for a decimal integer in a closed range."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and lowest <= int(text) <= highest):
            raise ValueError(f"expected an integer from {lowest} to {highest}")
        return int(text)

    return parse


def human_time(text: str) -> float:
    """Seconds of a time as people write it: ``90s``, ``5m``, ``1h 30min``, ``2 days``."""
    if not _HUMAN_TIME.fullmatch(text):
        raise ValueError("expected a time such as 30s, 5m, 1h 30m or 30d")
    return sum(int(count) * _TIME_UNITS[unit] for count, unit in _TIME_PART.findall(text))


def one_of(*choices: str) -> Callable[[str], str]:
    """A parser for one of a few words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return text

    return parse


def text_value(text: str) -> str:
    """Any non-empty text, as it is."""
    return text


def local_socket(text: str) -> LocalSocket:
    """The path of a socket to serve people on this host at, or ``off``."""
    if text == "off":
        return LocalSocket(None)
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("expected an absolute path, or off")
    return LocalSocket(path, is_demanded=True)


def status_socket(service: str) -> LocalSocket:
    """Where a client or gateway answers the people of its host, unless told otherwise."""
    return LocalSocket(SOCKET_FOLDER / f"{service}.sock")


def token_argument(text: str) -> str:
    """A token or the path of its file as an argument. A mistyped command is neither, and must not become one."""
    if _BARE_WORD.fullmatch(text):
        raise ValueError(f"{text!r} is neither a command nor a token: expected a token, or the path of its file")
    return token_or_file(text)


def token_or_file(text: str) -> str:
    """A token, or the content of the file that an absolute path names. No token begins like a path."""
    path = Path(text)
    if path.is_absolute():
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no text"
            raise ValueError(f"expected a token or a readable file that holds one ({path}: {reason})") from error
        if not text:
            raise ValueError(f"expected a token, found the empty file {path}")
    return text


def _split_arguments(arguments: Sequence[str]) -> tuple[dict[str, str], set[str], list[str], bool]:
    """Split ``--flag value``, ``--flag=value``, ``--switch`` and the rest."""
    flags: dict[str, str] = {}
    switches: set[str] = set()
    positional: list[str] = []
    wants_help = False
    pending = list(arguments)
    while pending:
        word = pending.pop(0)
        if word in {"-h", "--help"}:
            wants_help = True
        elif word.startswith("-") and "=" in word:
            flag, _, value = word.partition("=")
            flags[flag] = value
        elif word.startswith("-") and pending and not pending[0].startswith("-"):
            flags[word] = pending.pop(0)
        elif word.startswith("-"):
            switches.add(word)
        else:
            positional.append(word)
    return flags, switches, positional, wants_help


def _foreign(name: str, value: Any) -> bool:
    """Names under our prefix that others put there: tests, and Kubernetes for a Service called postern-something."""
    if name.startswith("POSTERN_TEST_") or _KUBERNETES_SERVICE_LINK.search(name):
        return True
    return bool(_KUBERNETES_PORT_LINK.search(name)) and str(value).startswith(("tcp://", "udp://"))
