"""Makes the document of a relay.yaml of coturn's options, and notes for all that it cannot say or says otherwise.

Notes name lines and options, never the value of one that may be a secret.
"""

import ipaddress
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from connectivity.endpoint import Endpoint, IPAddress
from relay.coturn.options import REMARKS, SWITCHES, Kind, Remark
from relay.coturn.ranges import Range, read_network, read_range, without
from relay.coturn.reading import Option

PORT: Final = 3478
TLS_PORT: Final = 5349
_PORTS: Final = (49_152, 65_535)
_ANY: Final = ("0.0.0.0", "::")
_BITS: Final = 8
_NUMBER: Final = re.compile(r"([0-9]+)(?:\s.*)?")  # as atoi(3) has it: what follows does not matter
_COMMENT: Final = re.compile(r"\s+#.*")
_WHOLE: Final = ("realm", "user", "static-auth-secret", "cert", "pkey")  # to the end of the line, whatever stands there
_TAKEN: Final = frozenset(
    (
        "allowed-peer-ip", "aux-server", "bps-capacity", "cert", "denied-peer-ip", "external-ip", "listening-ip",
        "listening-port", "max-bps", "max-port", "min-port", "no-tls", "pkey", "realm", "relay-ip",
        "rest-api-separator", "static-auth-secret", "tls-listening-port", "total-quota", "use-auth-secret", "user",
        "user-quota",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Note:
    """What is said of one line."""

    kind: Kind
    option: Option
    text: str


@dataclass(slots=True)
class Imported:
    """The document in the order of docs/relay.yaml, and the notes in the order of the lines."""

    document: dict[str, Any]
    notes: list[Note]
    wishes: list[str] = field(default_factory=list)  # what is missing before it can serve


def convert(options: Iterable[Option], *, path: Callable[[str], str] = str) -> Imported:
    """Take the options over. ``path`` makes of a path there what is written here."""
    return _Conversion(options, path).run()


class _Conversion:
    def __init__(self, options: Iterable[Option], path: Callable[[str], str]) -> None:
        self._path = path
        self._notes: list[Note] = []
        self._given: dict[str, list[Option]] = defaultdict(list)
        for option in options:
            if option.name in _TAKEN:
                self._given[option.name].append(option)
            else:
                self._remark(option)
        self._listening: list[IPAddress] = self._each("listening-ip", _ip)

    def run(self) -> Imported:
        document = {
            "realm": self._last("realm", _text),
            "listen": self._listen("listening-port", PORT, self._each("aux-server", _endpoint)),
            **self._addresses(),
            "tls": self._tls(),
            **self._credentials(),
            "ports": self._ports(),
            "peers": self._peers(),
            "quotas": self._quotas(),
        }
        self._remark_on_comments()
        self._notes.sort(key=lambda note: note.option.line)
        kept = {key: value for key, value in document.items() if value}
        return Imported(kept, self._notes, self._wishes(kept))

    def _wishes(self, document: dict[str, Any]) -> list[str]:
        wishes = []
        if "realm" not in document:
            wishes.append("realm: the file names none (coturn then takes the host's domain): give it by --realm")
        if "public" not in document:
            wishes.append("public: the file names no address that clients reach: give it by --public-addresses")
        if not {"users", "rest_secrets"} & document.keys():
            wishes.append("users or rest_secrets: nobody could use it")
        wishes += [
            f"peers.deny: line {note.option.line} was not understood, so what it denies is open"
            for note in self._notes
            if note.kind is Kind.UNCLEAR and note.option.name == "denied-peer-ip"
        ]
        return wishes

    def _remark(self, option: Option) -> None:
        remark = REMARKS.get(option.name)
        if remark is None:
            self._note(option, Remark(Kind.UNCLEAR, "no option of coturn 4.6 to 4.8"))
        elif option.name not in SWITCHES or option.is_on:
            self._note(option, remark)

    def _remark_on_comments(self) -> None:
        text = "the # and what follows belong to the value, as with coturn: it knows no comment behind one"
        for option in (option for name in _WHOLE for option in self._given[name] if _COMMENT.search(option.value)):
            self._note(option, Remark(Kind.OTHERWISE, text))

    def _note(self, option: Option, remark: Remark) -> None:
        self._notes.append(Note(remark.kind, option, remark.text))

    def _each(self, name: str, parse: Callable[[str], Any]) -> list[Any]:
        found = []
        for option in self._given[name]:
            try:
                found.append(parse(option.value))
            except ValueError as error:
                self._note(option, Remark(Kind.UNCLEAR, str(error)))
        return found

    def _last(self, name: str, parse: Callable[[str], Any], default: Any = None) -> Any:
        return (self._each(name, parse) or [default])[-1]

    def _is_on(self, name: str) -> bool:
        return any(option.is_on for option in self._given[name][-1:])

    def _listen(self, port_option: str, default: int, more: list[Endpoint]) -> list[str]:
        port = self._last(port_option, _port, default) or default
        if not self._listening and not more and port == default:
            return []  # all addresses of the host, as without the key
        endpoints = [Endpoint(ip, port) for ip in self._listening or map(ipaddress.ip_address, _ANY)]
        return list(dict.fromkeys(str(endpoint) for endpoint in (*endpoints, *more)))

    def _addresses(self) -> dict[str, dict[str, str]]:
        """External addresses first, else those of peers' traffic, else those of clients'; not what is no address."""
        public: dict[str, str] = {}
        internal: dict[str, str] = {}
        own = [
            ip for ip in (*self._each("relay-ip", _ip), *self._listening) if not (ip.is_unspecified or ip.is_loopback)
        ]
        for option in self._given["external-ip"]:
            try:
                outside, _, inside = (part.strip() for part in option.value.partition("/"))
                ip = _ip(outside)
                behind = _ip(inside) if inside else next((each for each in own if each.version == ip.version), None)
            except ValueError as error:
                self._note(option, Remark(Kind.UNCLEAR, str(error)))
                continue
            family = f"ipv{ip.version}"
            if family in public:
                self._note(
                    option, Remark(Kind.NO_EQUAL, "one public address of each family: run one relay per address")
                )
                continue
            public[family] = str(ip)
            if behind is not None and behind != ip:
                internal[f"ipv{behind.version}"] = str(behind)
        for ip in own:
            public.setdefault(f"ipv{ip.version}", str(ip))
        for option in self._given["relay-ip"]:
            if option.value not in (*public.values(), *internal.values()):
                self._note(
                    option, Remark(Kind.NO_EQUAL, "one public address of each family: run one relay per address")
                )
        return {"public": public, "internal": internal}

    def _tls(self) -> dict[str, Any]:
        files = {"certificate": self._last("cert", self._path), "key": self._last("pkey", self._path)}
        if self._is_on("no-tls") or not all(files.values()):
            for option in [*self._given["cert"], *self._given["pkey"]] if any(files.values()) else []:
                self._note(option, Remark(Kind.NO_EQUAL, "without TLS: it takes cert and pkey, and no no-tls"))
            return {}
        listen = self._listen("tls-listening-port", TLS_PORT, [])
        return files | ({"listen": listen} if listen else {})

    def _credentials(self) -> dict[str, Any]:
        secrets = [secret for secret in self._each("static-auth-secret", _text) if secret]
        for option in self._given["use-auth-secret"] if not secrets else []:
            self._note(option, Remark(Kind.NO_EQUAL, "its secrets are in a database: write them to rest_secrets"))
        for option in self._given["rest-api-separator"]:
            if option.value[:1] != ":":
                self._note(option, Remark(Kind.NO_EQUAL, "time and user of a name are told apart by a colon"))
        users: dict[str, str] = {}
        for option in self._given["user"]:
            name, _, password = (part.strip() for part in option.value.partition(":"))
            if secrets or self._is_on("use-auth-secret"):
                self._note(option, Remark(Kind.NO_EQUAL, "left out: beside use-auth-secret coturn knows no users"))
            elif not name or not password:
                self._note(option, Remark(Kind.UNCLEAR, "expected name:password"))
            elif password.startswith("0x"):
                text = "a key, of which no password can be made, and SHA-256 needs it: add users.NAME with the password"
                self._note(option, Remark(Kind.NO_EQUAL, text))
            else:
                users[name] = password
        return {"users": users, "rest_secrets": secrets}

    def _ports(self) -> list[int]:
        ports = [
            self._last(name, _port, default) for name, default in zip(("min-port", "max-port"), _PORTS, strict=True)
        ]
        return [] if tuple(ports) == _PORTS else ports

    def _peers(self) -> dict[str, list[str]]:
        allowed: list[Range] = self._each("allowed-peer-ip", read_range)
        denied = without([each for option in self._given["denied-peer-ip"] for each in self._denied(option)], allowed)
        return {
            key: list(dict.fromkeys(map(str, ranges)))
            for key, ranges in (("allow", allowed), ("deny", denied))
            if ranges
        }

    def _denied(self, option: Option) -> list[Range]:
        """What coturn denies, and what its file's author wanted it to: more than that is never open here."""
        try:
            return [read_range(option.value)]
        except ValueError as error:
            try:
                found = read_network(_COMMENT.sub("", option.value))
            except ValueError:
                self._note(option, Remark(Kind.UNCLEAR, str(error)))
                return []
        text = "denied from now on: coturn 4.6 does not understand this line, and relays to these peers"
        self._note(option, Remark(Kind.OTHERWISE, text))
        return [found]

    def _quotas(self) -> dict[str, Any]:
        per_user, total = (self._last(name, _count, 0) for name in ("user-quota", "total-quota"))
        per_session, capacity = (self._last(name, _count, 0) for name in ("max-bps", "bps-capacity"))
        quotas: dict[str, Any] = {"allocations_per_user": per_user, "allocations": total}
        if per_session and per_user == 1:
            quotas["bandwidth_per_user"] = _rate(per_session)  # a user has one session
        elif per_session:
            text = (
                f"bytes/s of each session; rates here are bits/s of all allocations of a user together:"
                f" quotas.bandwidth_per_user: {_rate(per_session)} would be one session's"
            )
            self._note(self._given["max-bps"][-1], Remark(Kind.NO_EQUAL, text))
        if capacity:
            quotas["bandwidth"] = _rate(capacity)
            text = (
                f"coturn reserves max-bps of it for each session and refuses the next; quotas.bandwidth"
                f" ({_rate(capacity)}, in bits/s) limits what is relayed, and refuses nobody"
            )
            self._note(self._given["bps-capacity"][-1], Remark(Kind.OTHERWISE, text))
        return {key: value for key, value in quotas.items() if value}


def _rate(bytes_per_second: int) -> str | int:
    bits = bytes_per_second * _BITS
    for unit, size in (("G", 10**9), ("M", 10**6), ("K", 10**3)):
        if bits % size == 0:
            return f"{bits // size}{unit}"
    return bits


def _ip(text: str) -> IPAddress:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("expected an address") from None


def _endpoint(text: str) -> Endpoint:
    try:
        return Endpoint.parse(text)
    except ValueError:
        raise ValueError("expected address:port") from None


def _port(text: str) -> int:
    found = _NUMBER.fullmatch(text)
    if found is None or int(found[1]) > 65_535:
        raise ValueError("expected a port")
    return int(found[1])


def _count(text: str) -> int:
    if (found := _NUMBER.fullmatch(text)) is None:
        raise ValueError("expected a number")
    return int(found[1])


def _text(text: str) -> str:
    if not text:
        raise ValueError("expected a value")
    return text
