"""The text of ``resolv.conf``: the host's own, and ours, which carries the host's along.

Ours begins with the line that Firezone's client writes too, so that each recognizes what the other left behind, and
ends with a line of its own. What stood there before lies between the two as comments: whoever has the file has all
that it takes to put it back, whatever became of the process or of the backup.
"""

import zlib
from collections.abc import Iterable
from typing import Final

from client.dns import system_servers
from client.dns.system_servers import SystemServer
from connectivity.endpoint import IPAddress

MAGIC: Final = "# BEGIN Firezone DNS configuration"
_END: Final = "# END Firezone DNS configuration"
_BEFORE: Final = "# This stood here before"
_KEPT: Final = "#|"
# What fills the rest of a longer file for the moment between two system calls; a comment, and recognized afterwards.
_FILLER_HEAD: Final = b"\n# postern: end of the file"
_FILLER: Final = b"."
_FILLER_END: Final = b"\n"


def nameservers(text: str) -> tuple[SystemServer, ...]:
    """The servers to ask, in order."""
    words = (line.split() for line in text.split("\n"))
    found = (system_servers.parse(line[1]) for line in words if len(line) > 1 and line[0] == "nameserver")
    return system_servers.usable(found)


def is_ours(text: str) -> bool:
    """Whether a client wrote this, or the file was left half written; either may be padded."""
    lines = _decoded(unpadded(_encoded(text))).rstrip("\n").split("\n")
    return lines[0] == MAGIC or lines[-1] == _END


def before(text: str) -> str | None:
    """What stood there before ours; None if this text does not carry it, or no longer whole."""
    lines = text.split("\n")
    start = next((number + 1 for number, line in enumerate(lines) if line.startswith(_BEFORE)), None)
    if start is None or _END not in lines[start:]:
        return None
    kept = lines[start : lines.index(_END, start)]
    found = "\n".join(line.removeprefix(_KEPT) for line in kept)
    is_whole = all(line.startswith(_KEPT) for line in kept) and lines[start - 1] == _heading(found)
    return found if is_whole else None


def ours(text: str, sentinels: Iterable[IPAddress], search_domain: str | None, backup: str) -> str:
    """The host's file with our servers and search domain in place of its own; its options stay, but for ``ndots``."""
    lines = [
        MAGIC,
        "# The Firezone client writes this file while it runs. When it ends, or else at its next start, it puts back",
        f"# what stood here before: that lies below, and in {backup} where that could be written.",
        *_kept_directives(text),
        "options ndots:1",
    ]
    if search_domain is not None:
        lines.append(f"search {search_domain}")
    lines += [f"nameserver {address}" for address in sentinels]
    lines += [_heading(text), *(f"{_KEPT}{line}" for line in text.split("\n")), _END, ""]
    return "\n".join(lines)


def padded(content: bytes, length: int) -> bytes:
    """``content`` made as long as what it is written over, so that nothing of that remains behind it."""
    room = length - len(content) - len(_FILLER_HEAD) - len(_FILLER_END)
    return content if room < 0 else content + _FILLER_HEAD + _FILLER * room + _FILLER_END


def unpadded(content: bytes) -> bytes:
    """What was padded."""
    head, separator, filler = content.rpartition(_FILLER_HEAD)
    is_padded = separator and filler.endswith(_FILLER_END) and not filler.removesuffix(_FILLER_END).strip(_FILLER)
    return head if is_padded else content


def _heading(text: str) -> str:
    """Tells whether what follows is whole: a write that was cut off may leave lines of two files."""
    return f"{_BEFORE} (CRC {zlib.crc32(_encoded(text)):08x}):"


def _kept_directives(text: str) -> list[str]:
    kept = []
    for line in text.split("\n"):
        words = line.split()
        if not words or line.startswith(("#", ";")) or words[0] in {"nameserver", "search", "domain"}:
            continue
        if words[0] == "options":
            words = [word for word in words if not word.startswith("ndots:")]
            if len(words) == 1:
                continue
        kept.append(" ".join(words))
    return kept


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _decoded(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")
