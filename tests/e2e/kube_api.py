"""A real Kubernetes API server with its etcd and no node, in a namespace of its own: what is stored must be valid.

Kubernetes' programs are one file, ``kube``, that acts by the name it is called by. etcd is Debian's; where it is not
installed its package is unpacked for the test only, because installing it would start a service.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from lab.processes import Process, spawn, stop_all, wait_until

ADDRESS: Final = "198.51.100.1"  # of the namespace; the API server wants one that is not loopback
_ETCD_CLIENTS: Final = "http://127.0.0.1:23790"
_ETCD_PEERS: Final = "http://127.0.0.1:23800"
_TOKEN: Final = "a-token-of-this-test"
_KUBECONFIG: Final = f"""
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:6443", insecure-skip-tls-verify: true}}}}]
users: [{{name: a, user: {{token: {_TOKEN}}}}}]
contexts: [{{name: x, context: {{cluster: c, user: a}}}}]
current-context: x
"""


class Cluster:
    """Runs programs that talk to the API server."""

    def __init__(self, namespace: str, folder: Path, programs: Mapping[str, Path]) -> None:
        self._namespace = namespace
        self._programs = programs
        self._env = {"PATH": os.environ["PATH"], "HOME": str(folder), "KUBECONFIG": str(folder / "kubeconfig")}

    def attempt(self, program: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        command = ["ip", "netns", "exec", self._namespace, str(self._programs[program]), *arguments]
        return subprocess.run(
            command, env=self._env, input=text, capture_output=True, text=True, timeout=60, check=False
        )

    def run(self, program: str, *arguments: str, text: str = "") -> str:
        done = self.attempt(program, *arguments, text=text)
        assert done.returncode == 0, f"{program} {' '.join(arguments)}: {done.stderr}"
        return done.stdout


@contextmanager
def api_server(namespace: str, folder: Path, kube: Path, helm: Path) -> Iterator[Cluster]:
    """A cluster without nodes, gone afterwards."""
    programs = {"helm": helm, "kubectl": folder / "kubectl", "kube-apiserver": folder / "kube-apiserver"}
    for name in ("kubectl", "kube-apiserver"):
        programs[name].symlink_to(kube)
    (folder / "kubeconfig").write_text(_KUBECONFIG)
    (folder / "tokens.csv").write_text(f"{_TOKEN},admin,admin,system:masters\n")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    (folder / "accounts.key").write_bytes(key.private_bytes(*form))
    cluster = Cluster(namespace, folder, programs)
    running: list[Process] = []
    try:
        for name, command in (("etcd", _etcd_command(folder)), ("api", _api_command(folder, programs))):
            running.append(spawn(name, namespace, command, {"HOME": str(folder)}, folder / f"{name}.log"))
        wait_until(
            lambda: cluster.attempt("kubectl", "get", "--raw", "/readyz").returncode == 0, "the API", running, 60
        )
        wait_until(
            lambda: cluster.attempt("kubectl", "get", "namespace", "default").returncode == 0, "default", running
        )
        yield cluster
    finally:
        stop_all(running)


def _etcd_command(folder: Path) -> Sequence[str]:
    return (
        *(_etcd(folder), "--data-dir", str(folder / "etcd")),
        *("--listen-client-urls", _ETCD_CLIENTS, "--advertise-client-urls", _ETCD_CLIENTS),
        *("--listen-peer-urls", _ETCD_PEERS, "--initial-advertise-peer-urls", _ETCD_PEERS),
        *("--initial-cluster", f"default={_ETCD_PEERS}", "--unsafe-no-fsync"),
    )


def _api_command(folder: Path, programs: Mapping[str, Path]) -> Sequence[str]:
    key = str(folder / "accounts.key")
    return (
        *(str(programs["kube-apiserver"]), f"--etcd-servers={_ETCD_CLIENTS}", f"--advertise-address={ADDRESS}"),
        *(f"--cert-dir={folder}", f"--token-auth-file={folder}/tokens.csv", "--authorization-mode=AlwaysAllow"),
        *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
        *(
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112",
        ),
        *("--disable-admission-plugins=ServiceAccount", "--allow-privileged=true"),
    )


def _etcd(folder: Path) -> str:
    """The program's path."""
    installed = shutil.which("etcd")
    if installed is not None:
        return installed
    package = folder / "package"
    package.mkdir()
    download = ["apt-get", "-qq", "download", "etcd-server"]
    if subprocess.run(download, cwd=package, capture_output=True, check=False).returncode != 0:
        subprocess.run(["apt-get", "-qq", "update"], capture_output=True, check=True)
        subprocess.run(download, cwd=package, capture_output=True, check=True)
    (archive,) = package.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", str(archive), str(package)], check=True)
    return str(package / "usr" / "bin" / "etcd")
