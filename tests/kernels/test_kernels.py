"""The XDP program on the kernels that operators have: Debian's own, and the newer one of its backports.

Each is booted beside this one, and runs what is run here: all verdicts and rewrites of the program (``tests/bpf``), and
a relay as a process whose native XDP carries data both ways. A kernel that cannot be had skips with the reason.
"""

import platform
import shlex
import sys
from pathlib import Path
from typing import Final

import pytest

from ebpf.headers import find_headers
from lab.processes import PATIENCE
from tests.kernels import archive, guest
from tests.kernels.archive import CannotHaveError, Suite

pytestmark = [pytest.mark.long, pytest.mark.root, pytest.mark.timeout(1800)]

_CHECKOUT: Final = Path(__file__).resolve().parents[2]
_CACHE: Final = Path("/var/cache/postern/kernels")
_SECONDS: Final = 1500.0
_TESTS: Final = ("tests/bpf", "tests/netns/test_xdp_relay.py::test_clients_of_every_listen_port_are_offloaded[native]")
_MODULES: Final = ("tun", "veth", "bridge", "xdp_diag")


@pytest.mark.parametrize("suite", archive.SUITES)
def test_the_program_runs_on(suite: Suite, tmp_path: Path) -> None:
    if platform.machine() != "x86_64":
        pytest.skip(f"kernels are booted on x86_64 only, this is {platform.machine()}")
    try:
        with archive.alone(_CACHE):
            archive.install_tools()
            kernel = archive.fetch(suite, _CACHE)
    except CannotHaveError as error:
        pytest.skip(f"no kernel to boot: {error}")
    find_headers()  # merged here, once: a guest would copy its thousands of files for seven minutes
    tests = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-q", "--timeout=900", *_TESTS]
    command = f"modprobe -aq {' '.join(_MODULES)}; uname -r; ip link set lo up; cd {_CHECKOUT} && {shlex.join(tests)}"
    ended = guest.run(kernel, f"export CI=true {PATIENCE}=30; {command}", tmp_path, _SECONDS)
    assert kernel.version in ended.output, ended.output[-4000:]
    assert ended.code == 0, ended.output[-8000:]
