"""What tests of the images share, and those of the packages."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documented import ROOT
from tests.e2e.engine import Workshop, image_workshop, install, make_root, run


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """One for all, so that no image is built twice."""
    with image_workshop(tmp_path_factory.mktemp("images") / "postern") as made:
        yield made


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the Debian packages of this checkout."""
    folder = tmp_path_factory.mktemp("packages")
    run([str(ROOT / "dist/debian/build"), str(folder)], seconds=600)
    return folder


@pytest.fixture(scope="session")
def fresh_debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Debian in a folder, to be copied, whose apt asks nothing. In memory: debootstrap flushes each file."""
    install(("debootstrap",), ("debootstrap",))
    folder = tmp_path_factory.mktemp("debian")
    run(["mount", "-t", "tmpfs", "-o", "size=1g,mode=755", "fresh-debian", str(folder)])
    try:
        root = folder / "root"
        make_root(root)
        (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")  # nobody starts by being installed
        (root / "usr/sbin/policy-rc.d").chmod(0o755)
        options = 'APT::Get::Assume-Yes "1";\nAPT::Install-Recommends "0";\nquiet "2";\n'
        (root / "etc/apt/apt.conf.d/test").write_text(options)
        run(["chroot", str(root), "apt-get", "update"], seconds=300)
        yield root
    finally:
        run(["umount", str(folder)])
