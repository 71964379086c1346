"""A real Kubernetes node for tests, as if on a machine of its own: network, processes and mounts are in namespaces.

::

    client ──veth── outside ┐                        ┌ beside ──veth── relay-2
      198.51.100.2          ├─ node, 203.0.113.100 ──┤                    192.0.2.2
                            └──── pods, 10.244.0.0/24, services, 10.96.0.0/16

What runs on the node ends with the namespace of its processes; mounts, interfaces and rules go with theirs, and its
disk is memory, about 2 GB of it. Only control groups remain, and are removed. ``kube.sh``, which is not part of this
project, sets the node up.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from lab.processes import wait_until
from tests.e2e.engine import Engine, EngineError, install, run

NODE: Final = "203.0.113.100"
OUTSIDE: Final = "outside"
BESIDE: Final = "beside"
CLIENT: Final = "198.51.100.2"
SECOND_RELAY: Final = "192.0.2.2"
POD_NETWORK: Final = "10.244.0.0/24"
_ROUTERS: Final = {CLIENT: "198.51.100.1", SECOND_RELAY: "192.0.2.1"}
_PACKAGES: Final = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "conntrack": "conntrack",
    "nft": "nftables",
    "socat": "socat",
    "iptables": "iptables",
    "openssl": "openssl",
    "xz": "xz-utils",
}
# Programs of a node write there whatever they are told; nothing of it may reach the machine's own.
_FOLDERS: Final = (
    "/run/netns",
    "/run/containerd",
    "/var/log",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/usr/libexec/kubernetes",
)
# A kubelet sets these for itself. They belong to the kernel and so to everybody: it gets files instead.
_SETTINGS: Final = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")
_BURIAL_SECONDS: Final = 60.0
_CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")
_INIT: Final = f"""
set -eu
mount --make-rprivate /
mkdir "$1/cgroup" "$1/settings" "$1/memory"
mount --rbind {_CONTROL_GROUPS} "$1/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$1/cgroup" {_CONTROL_GROUPS}
umount --lazy "$1/cgroup"
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmpfs "$1/memory"
for folder in {" ".join(_FOLDERS)}; do mount -t tmpfs tmpfs "$folder"; done
for setting in {" ".join(_SETTINGS)}; do
    cat "/proc/sys/$setting" >"$1/settings/${{setting##*/}}"
    mount --bind "$1/settings/${{setting##*/}}" "/proc/sys/$setting"
done
: >"$1/ready"
while :; do sleep 3600 & wait $!; done
"""  # the last line reaps what loses its parent


class Node:
    """Runs commands on the node and in the namespaces beside it."""

    def __init__(self, namespace: str, pid: int, folder: Path, script: Path, engine: Engine) -> None:
        self.namespace = namespace
        self.client = f"{namespace}-client"
        self.second_relay = f"{namespace}-relay-2"
        self.folder = folder
        self._pid = pid
        self._script = script
        self._state = f"{folder}/memory/kube"
        self._env = {
            **engine.env,
            "KUBE_DIR": self._state,
            "KUBE_NODE_IP": NODE,
            "KUBECONFIG": f"{self._state}/admin.conf",
            "HOME": str(folder),
            "PATH": f"{self._state}/bin:{os.environ['PATH']}",
        }

    def add_seccomp_profile(self, name: str, profile: Mapping[str, object]) -> None:
        """Have a profile that pods may name."""
        path = f"{self._state}/kubelet/seccomp/{name}"
        self.run("install", "-D", "/dev/stdin", path, text=json.dumps(profile))

    def _enter(self, *words: str) -> list[str]:
        return ["nsenter", f"--target={self._pid}", "--mount", "--net", *words]

    def run(self, *words: str, text: str = "", seconds: float = 60) -> str:
        """Run to the end on the node; what it printed.

        Raises:
            EngineError: it failed.
        """
        done = self.attempt(*words, text=text, seconds=seconds)
        if done.returncode != 0:
            raise EngineError(f"{' '.join(words)}: code {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
        return done.stdout

    def attempt(self, *words: str, text: str = "", seconds: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._enter("--pid", "--", *words),
            env=self._env,
            input=text,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    @contextmanager
    def running(self, *words: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Have a command run on the node's network, for as long as it takes or the context lasts."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._enter("--", *words), env=self._env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def start(self, images: Mapping[str, Sequence[str]]) -> None:
        """Start Kubernetes, and give it images of the engine under the tags that follow each."""
        self.run(str(self._script), "up", seconds=180)
        ctr = f"ctr --address={self._state}/containerd.sock --namespace=k8s.io images"
        # All in one, as they share most of what they are made of.
        save = f"docker save {' '.join(images)} | {ctr} import -"
        self.run("bash", "-o", "pipefail", "-c", save, seconds=300)
        for image, tags in images.items():
            for tag in tags:
                self.run(*ctr.split(), "tag", f"docker.io/{image}:latest", f"docker.io/{image}:{tag}")


@contextmanager
def kubernetes_node(tool: Path, engine: Engine) -> Iterator[Node]:
    """A machine for Kubernetes with a client and room for a second relay beside it; afterwards nothing is left."""
    install(tuple(_PACKAGES), tuple(_PACKAGES.values()))
    name = f"pk-{uuid.uuid4().hex[:6]}"
    folder = Path(tempfile.mkdtemp(prefix="postern-kube-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        for path in map(Path, _FOLDERS):
            if not path.exists():
                path.mkdir(parents=True)
                stack.callback(path.rmdir)
        stack.callback(_remove_control_groups, _control_groups())
        for namespace in (name, f"{name}-client", f"{name}-relay-2"):
            run(["ip", "netns", "add", namespace])
            stack.callback(run, ["ip", "netns", "delete", namespace])
            run(["ip", "-n", namespace, "link", "set", "lo", "up"])
        outer = stack.enter_context(_init(name, folder))
        (pid,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        node = Node(name, int(pid), folder, tool / "kube.sh", engine)
        _connect(node)
        yield node


@contextmanager
def _init(namespace: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The first process of the node, with which all others end."""
    enter = ["nsenter", f"--net=/run/netns/{namespace}", "unshare", "--mount", "--pid", "--fork", "--mount-proc"]
    with (folder / "init.log").open("wb") as log:
        process = subprocess.Popen(
            [*enter, "--kill-child", "bash", "-c", _INIT, "init", str(folder)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: (folder / "ready").exists() or process.poll() is not None, "the node has its namespaces")
        if process.poll() is not None:
            raise EngineError(f"no node: {(folder / 'init.log').read_text()}")
        yield process
    finally:
        process.kill()
        process.wait()


def _connect(node: Node) -> None:
    """Lay the cables. Each is like one between network cards: whole checksums, single packets, and GRO at both ends."""
    ends = ((node.client, OUTSIDE, CLIENT), (node.second_relay, BESIDE, SECOND_RELAY))
    for namespace, port, address in ends:
        peer = ["peer", "name", "eth0", "netns", namespace]
        run(["ip", "-n", node.namespace, "link", "add", port, "type", "veth", *peer])
        for where, device, own in ((node.namespace, port, _ROUTERS[address]), (namespace, "eth0", address)):
            run(["ip", "-n", where, "address", "add", f"{own}/24", "dev", device])
            run(["ip", "-n", where, "link", "set", device, "up"])
        run(["ip", "-n", namespace, "route", "add", "default", "via", _ROUTERS[address]])
        run(["ip", "netns", "exec", namespace, "ethtool", "-K", "eth0", "tx", "off", "gro", "on"])
    # Not even a Service is reached from a machine that has no route at all.
    run(["ip", "-n", node.namespace, "route", "add", "default", "via", SECOND_RELAY])


def _control_groups() -> set[Path]:
    """What kubelets have made, in each hierarchy or in the only one."""
    return {path for pattern in ("kubepods", "*/kubepods") for path in _CONTROL_GROUPS.glob(pattern)}


def _remove_control_groups(kept: set[Path]) -> None:
    """What our kubelet made, innermost first; its processes are gone."""
    deadline = time.monotonic() + _BURIAL_SECONDS
    for path in _control_groups() - kept:
        for group in sorted((Path(folder) for folder, _, _ in os.walk(path)), reverse=True):
            while group.exists():
                try:
                    group.rmdir()
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)  # the kernel still buries the last process in it
