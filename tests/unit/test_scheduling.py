"""Which tests share a process of pytest-xdist."""

from tests.documented import ROOT
from tests.scheduling import TOGETHER, group


def test_the_files_that_are_named_are_there() -> None:
    assert all((ROOT / file).is_file() for file in TOGETHER)


def test_a_file_is_a_group_and_images_and_packages_are_built_by_one() -> None:
    assert group("tests/netns/test_tun.py::test_a[x::y]") == group("tests/netns/test_tun.py::test_b") != "engine"
    assert {group(f"{file}::test_a[1]") for file in TOGETHER} == {"engine", "packages"}
