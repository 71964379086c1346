"""Which tests go to the same process of pytest-xdist: those that share what they start.

xdist's own groups (``xdist_group``) do nothing since pytest 9, which reads no name that a plugin gives to a test.
"""

from typing import Final

from xdist.scheduler import LoadScopeScheduling

# What builds images, or packages, does so once.
TOGETHER: Final = {
    "tests/e2e/test_compose.py": "engine",
    "tests/e2e/test_compose_turn.py": "engine",
    "tests/e2e/test_kube.py": "engine",
    "tests/e2e/test_packages.py": "packages",
    "tests/e2e/test_systemd.py": "packages",
}


def group(nodeid: str) -> str:
    """A test's group: its file, but for these few."""
    file = nodeid.partition("::")[0]
    return TOGETHER.get(file, file)


class GroupScheduling(LoadScopeScheduling):
    """Gives each process a group at a time."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)
