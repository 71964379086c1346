"""Takes secrets out of what goes into a bug report: those that are known, and what looks like one.

Known are the tokens, passwords and secrets of this host's settings: each is hidden wherever it stands, in logs too.
What looks like one (a key, a token in a URL, a credential) is hidden by its shape.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote

import yaml

HIDDEN: Final = "(hidden)"
_SECRET_NAME: Final = re.compile(
    r"(?i)(token|secret|passw|credential|private|preshared|psk|api_?key|auth|cookie)(?!.*(_file|_path)$)"
)
_SECRET_KEYS: Final = frozenset(
    {"token", "secret", "users", "rest_secrets", "password", "preshared_key", "private_key"}
)
_SHORTEST: Final = 4  # what is shorter would hide half of the report
_SHAPES: Final = (
    # PEM blocks; keys of WireGuard, 32 bytes in base64 or hex; tokens as portals sign them, with dots.
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{43}="),
    re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{64}(?![0-9A-Fa-f])"),
    re.compile(r"(?<![\w-])[\w-]{8,}\.[\w-]{16,}\.[\w-]{16,}"),
)
_NAMED: Final = (
    # name=value and "name": "value" in URLs, logs and JSON; credentials of headers and URLs.
    re.compile(
        r"(?i)(?P<kept>\b[\w-]*(?:token|secret|passw(?:or)?d|credential)(?![\w-]*_(?:file|path)\b)[\w-]*[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;}]+"
    ),
    re.compile(r"(?i)(?P<kept>\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}"),
    re.compile(r"(?P<kept>://[^/\s:@]*:)[^/\s@]+(?=@)"),
    re.compile(r"(?i)(?P<kept>\b(?:ufrag|pwd|password)[=:]\s*)\S+"),
)


class Hiding:
    """Hides what it was told of, and what looks like a secret."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known: set[str] = set()
        for text in known:
            self.learn(text)

    def learn(self, text: str) -> None:
        """A secret, to be hidden wherever it stands."""
        if len(text := text.strip()) >= _SHORTEST:
            self._known |= {text, quote(text, safe="")}

    def text(self, text: str) -> str:
        """A text without them."""
        for secret in sorted(self._known, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        for shape in _SHAPES:
            text = shape.sub(HIDDEN, text)
        for shape in _NAMED:
            text = shape.sub(lambda found: found["kept"] + HIDDEN, text)
        return text

    def variables(self, given: Iterable[tuple[str, str]]) -> str:
        """Variables as ``NAME=value``, those by their names that are secrets without it; a path is none."""
        return "".join(f"{name}={_value(name, value)}\n" for name, value in given)

    def document(self, text: str) -> str:
        """A YAML file, made anew so that no comment hides one either; nothing of what is none."""
        try:
            top = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            return "# not YAML, so it was left out\n"
        return yaml.safe_dump(_without(top), sort_keys=False, allow_unicode=True)


def is_secret(name: str) -> bool:
    """Whether a variable holds one, by its name."""
    return _SECRET_NAME.search(name) is not None


def secrets_of(document: Any, *, within: bool = False) -> Iterator[str]:
    """The secrets that a settings file holds."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from secrets_of(value, within=within or key in _SECRET_KEYS)
    elif isinstance(document, list):
        for value in document:
            yield from secrets_of(value, within=within)
    elif within and document is not None:
        yield str(document)


def token_files_of(document: Any) -> Iterator[str]:
    """The paths of the files that have its tokens."""
    if isinstance(document, dict):
        for key, value in document.items():
            paths = value if isinstance(value, list) else [value]
            yield from (path for path in paths if key == "token_file" and isinstance(path, str))
            yield from token_files_of(value)
    elif isinstance(document, list):
        for value in document:
            yield from token_files_of(value)


def _value(name: str, value: str) -> str:
    return HIDDEN if value and is_secret(name) and not value.startswith("/") else value


def _without(document: Any, *, within: bool = False) -> Any:
    if isinstance(document, dict):
        return {key: _without(value, within=within or key in _SECRET_KEYS) for key, value in document.items()}
    if isinstance(document, list):
        return [_without(value, within=within) for value in document]
    return HIDDEN if within and document is not None else document
