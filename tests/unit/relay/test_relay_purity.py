"""The core touches no world: what it imports, module by module."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import relay.core

BANNED = {
    "aiohttp",
    "asyncio",
    "bcc",
    "ebpf",
    "opentelemetry",
    "os",
    "pyroute2",
    "random",
    "secrets",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
}
MODULES = sorted(Path(path) for directory in relay.core.__path__ for path in Path(directory).glob("*.py"))


def imported(module: Path) -> Iterator[str]:
    """Absolute names of what a module imports, at any depth of its code."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield node.module or ""


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_no_world_in_the_core(module: Path) -> None:
    for name in imported(module):
        assert name.partition(".")[0] not in BANNED
        assert not name.startswith(("connectivity.io", "relay.driver"))
