"""Kernel headers are found, merged where the distribution splits them, or their lack is told."""

from pathlib import Path

import pytest

from ebpf import OffloadError
from ebpf.headers import VARIABLE, find_headers, is_complete


@pytest.fixture(autouse=True)
def _nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def _write(root: Path, *names: str, text: str = "") -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def _split(sources: Path, version: str) -> None:
    common = sources / f"linux-headers-{version}-common"
    _write(
        common, "include/linux/kconfig.h", "arch/x86/include/asm/page.h", "arch/arm/include/asm/page.h", text="common"
    )
    _write(sources / f"linux-headers-{version}-amd64", "include/generated/autoconf.h", "arch/x86/include/generated/a.h")


def test_the_named_tree_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = _write(tmp_path / "named", "include/linux/kconfig.h", "include/generated/autoconf.h")
    _split(tmp_path, "6.1.0-56")
    monkeypatch.setenv(VARIABLE, str(tree))
    assert find_headers(tmp_path, tmp_path / "cache") == tree


def test_a_named_half_is_refused_with_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(_write(tmp_path, "include/linux/kconfig.h")))
    with pytest.raises(OffloadError, match="autoconf"):
        find_headers(tmp_path, tmp_path)


def test_a_complete_tree_is_used_as_it_is(tmp_path: Path) -> None:
    tree = _write(tmp_path / "linux-headers-6.8.0-generic", "include/linux/kconfig.h", "include/generated/autoconf.h")
    assert find_headers(tmp_path, tmp_path / "cache") == tree


def test_what_cannot_be_looked_at_is_no_tree(tmp_path: Path) -> None:
    """As in the relay's unit without its drop-in: that ended a relay which only prefers to offload."""
    assert not is_complete(tmp_path / ("a" * 256))  # root is refused nothing else


def test_a_split_tree_is_merged_once(tmp_path: Path) -> None:
    _split(tmp_path, "6.1.0-9")
    _split(tmp_path, "6.1.0-56")
    cache = tmp_path / "cache"
    merged = find_headers(tmp_path, cache)
    assert merged == cache / "headers-6.1.0-56-amd64"
    assert is_complete(merged)
    assert (merged / "arch/x86/include/asm/page.h").read_text() == "common"
    assert (merged / "arch/x86/include/generated/a.h").exists()
    assert not (merged / "arch/arm").exists()
    assert [entry.name for entry in cache.iterdir()] == [merged.name]
    stamp = (merged / "include").stat().st_mtime_ns
    assert find_headers(tmp_path, cache) == merged
    assert (merged / "include").stat().st_mtime_ns == stamp


def test_their_lack_names_the_way_out(tmp_path: Path) -> None:
    _write(tmp_path / "linux-headers-6.1.0-56-amd64", "include/generated/autoconf.h")
    with pytest.raises(OffloadError, match=r"install linux-headers .* or set BCC_KERNEL_SOURCE"):
        find_headers(tmp_path, tmp_path / "cache")
