"""The lines of a ``turnserver.conf``: ``name=value``, ``name value`` or ``name``, as coturn itself takes them apart."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_LINE = re.compile(r"([^ =\t]+)(?:[ =\t]+(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Option:
    """One line. The value may be a secret, so it is not shown."""

    line: int
    name: str
    value: str = field(repr=False)

    @property
    def is_on(self) -> bool:
        """Whether it means yes, for an option that is a switch; without a value it does."""
        return not (self.value[:1] in {*"0nNfF"} or self.value.lower() == "off") if self.value else True


def read_options(text: str) -> Iterator[Option]:
    """The options in their order; comments and empty lines are none."""
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        found = None if stripped.startswith("#") else _LINE.fullmatch(stripped)
        if found is not None:
            yield Option(number, found[1], _unquoted(found[2] or ""))


def _unquoted(value: str) -> str:
    return value[1:].rstrip().removesuffix('"') if value.startswith('"') else value
