"""Boots a kernel in a machine of its own and runs one command there, as root, with this host's files.

The host's root is the guest's: read-only by 9p, under an overlay in memory, so that all that is installed here is there
and nothing that happens there is here. The machine is emulated, because tests often run in a virtual machine that lets
nobody have another: up in ten seconds, everything ten to thirty times slower. It yields to whoever else has work here.
"""

import shlex
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Final, NamedTuple

from tests.kernels.archive import Kernel

_FIRST_MODULES: Final = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_MEMORY_MB: Final = 2048
_BUSYBOX: Final = Path("/bin/busybox")
_END: Final = "guest: exit code "
_MACHINE: Final = (
    *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", str(_MEMORY_MB)),
    *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"),
)
_COMMAND_LINE: Final = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on net.ifnames=0"
_INIT: Final = """#!/busybox sh
/busybox mkdir -p /proc /low /up /new
/busybox mount -t proc proc /proc
for module in ORDER; do /busybox insmod /modules/$module; done
/busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /low
/busybox mount -t tmpfs tmpfs /up
/busybox mkdir -p /up/upper /up/work
/busybox mount -t overlay -o lowerdir=/low,upperdir=/up/upper,workdir=/up/work overlay /new
cd /new
/busybox mount -t proc proc proc
/busybox mount -t sysfs sysfs sys
/busybox mount -t devtmpfs devices dev
/busybox mkdir -p dev/pts dev/shm
/busybox mount -t devpts devpts dev/pts
/busybox mount -t tmpfs shm dev/shm
/busybox mount -t tmpfs tmpfs run
/busybox mount -t tmpfs tmpfs tmp
/busybox mount -t tmpfs tmpfs var/tmp
/busybox mount -t bpf bpf sys/fs/bpf
/busybox mount -o bind /lowMODULES lib/modules
/busybox chroot . /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root /bin/sh -c COMMAND
echo "ENDING$?"
/busybox poweroff -f
"""


class Outcome(NamedTuple):
    """How a command ended, None if it did not, and all that the machine wrote."""

    code: int | None
    output: str


def run(kernel: Kernel, command: str, work: Path, seconds: float) -> Outcome:
    """Boot ``kernel`` and run a command of the shell; the machine is gone afterwards. ``work`` is for its files."""
    initial = _initial_file_system(kernel, command, work)
    guest = subprocess.Popen(
        [
            *(
                "nice",
                "--adjustment=5",
                "qemu-system-x86_64",
                *_MACHINE,
                "-kernel",
                str(kernel.image),
                "-initrd",
                str(initial),
            ),
            *("-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"),
            *("-device", "virtio-9p-pci,fsdev=root,mount_tag=host", "-append", _COMMAND_LINE),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    limit = threading.Timer(seconds, guest.kill)
    limit.start()
    try:
        output, _ = guest.communicate()
    finally:
        limit.cancel()
        guest.kill()
    ends = [line.removeprefix(_END) for line in output.splitlines() if line.startswith(_END)]
    return Outcome(int(ends[-1]) if ends else None, output)


def _initial_file_system(kernel: Kernel, command: str, work: Path) -> Path:
    """A file system in a file, which mounts the host's and goes over to it."""
    tree = work / "tree"
    (tree / "modules").mkdir(parents=True)
    shutil.copy(_BUSYBOX, tree / "busybox")
    order = []
    for path in _modules(kernel):
        name = path.name.removesuffix(".xz")
        order.append(name)
        module = tree / "modules" / name
        if path.suffix == ".xz":
            module.write_bytes(subprocess.run(["xz", "-dc", str(path)], capture_output=True, check=True).stdout)
        else:
            shutil.copy(path, module)
    init = _INIT.replace("ORDER", " ".join(order)).replace("MODULES", str(kernel.folder.resolve() / "lib/modules"))
    (tree / "init").write_text(init.replace("COMMAND", shlex.quote(command)).replace("ENDING", _END), encoding="utf-8")
    (tree / "init").chmod(0o755)
    archive = work / "initial.cpio"
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    with archive.open("wb") as written:
        packing = ["cpio", "--create", "--format", "newc", "--quiet"]
        subprocess.run(packing, cwd=tree, input=names.encode(), stdout=written, check=True)
    return archive


def _modules(kernel: Kernel) -> list[Path]:
    """What mounting takes, in the order in which to load it."""
    found: dict[Path, None] = {}
    for module in _FIRST_MODULES:
        asked = ["modprobe", "-S", kernel.version, "-d", str(kernel.folder), "--show-depends", module]
        shown = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        found |= {Path(line.split()[1]): None for line in shown.splitlines() if line.startswith("insmod")}
    return list(found)
