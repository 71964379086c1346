"""Where this machine takes Debian's packages from: what apt itself reads in its lists of sources, of either format."""

import re
import subprocess
from typing import Final

#: It fetches nothing: every file that an update would fetch is printed in quotes, one a line.
_QUESTION: Final = ("apt-get", "update", "--print-uris")


class ArchiveError(Exception):
    """No source of the machine has the suite; the text says so."""


def package_archive(suite: str) -> str:
    """The address of an archive among this machine's sources that has a suite's main component.

    Raises:
        ArchiveError: none does, or apt cannot read the sources.
    """
    asked = subprocess.run(_QUESTION, capture_output=True, text=True, timeout=60, check=False)
    if asked.returncode != 0:
        raise ArchiveError(f"apt cannot read this machine's sources: {asked.stderr.strip()}")
    packages = rf"^'((?:https?|file):\S+?)/dists/{re.escape(suite)}/main/binary-\S+'"
    if found := re.search(packages, asked.stdout, re.MULTILINE):
        return found[1]
    raise ArchiveError(f"none of this machine's sources has {suite} main")
