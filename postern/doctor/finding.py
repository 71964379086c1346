"""What the doctor says of a host: one thing that is so, and what to do about it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """``hinders`` if a service does not start or does not serve with it; else it is worth knowing, and no more."""

    what: str
    remedy: str = ""
    hinders: bool = True


def remark(what: str, remedy: str = "") -> Finding:
    """What is so, and stands in nobody's way."""
    return Finding(what, remedy, hinders=False)
