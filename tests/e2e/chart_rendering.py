"""The chart as Helm renders it, and what the services read of that: environment and files as a pod would see them."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from charts.readme import CHART
from relay.settings import RelaySettings, read_settings
from tests.unit.relay.test_relay_config_file import make_certificate

# Helm's own idea of the cluster when it has none is older than what the chart asks for.
KUBERNETES: Final = ("--kube-version", "1.33.0")
DOWNWARD: Final = {
    "spec.nodeName": "node-1",
    "metadata.name": "gateway-1",
    "metadata.uid": "7f2b8a1e-6c70-4a35-8a0b-6a7a9d1d3c11",
}

Object = dict[str, Any]


class Helm:
    """The program; ``HELM_*`` of whoever runs the tests stays out."""

    def __init__(self, program: Path, home: Path) -> None:
        self._program = program
        self._env = {"PATH": os.environ["PATH"], "HOME": str(home)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._program), *arguments], env=self._env, capture_output=True, text=True, timeout=60, check=False
        )

    def render(self, case: str, *arguments: str) -> str:
        done = self.run("template", "postern", str(CHART), *values_of(case), *KUBERNETES, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def objects(self, case: str, *arguments: str) -> list[Object]:
        return [found for found in yaml.safe_load_all(self.render(case, *arguments)) if found]

    def refusal(self, case: str, *arguments: str) -> str:
        done = self.run("template", "postern", str(CHART), *values_of(case), *KUBERNETES, *arguments)
        assert done.returncode != 0, "it was accepted"
        assert done.stdout == ""
        return done.stderr


def values_of(case: str) -> list[str]:
    return ["--values", str(CHART / "ci" / f"{case}-values.yaml")]


def workloads(objects: list[Object]) -> list[Object]:
    found = [one for one in objects if one["kind"] in {"Deployment", "DaemonSet"}]
    assert found
    return found


def part(objects: list[Object], component: str) -> Object:
    (found,) = (
        one for one in workloads(objects) if one["metadata"]["labels"]["app.kubernetes.io/component"] == component
    )
    return found


def pod_spec(workload: Object) -> Object:
    return dict(workload["spec"]["template"]["spec"])


def environment(workload: Object, host_ips: str) -> dict[str, str]:
    """The variables of the pod's one container as it would see them, its token file replaced by a token."""
    downward: Mapping[str, str] = {**DOWNWARD, "status.hostIPs": host_ips}
    (container,) = pod_spec(workload)["containers"]
    found: dict[str, str] = {}
    for entry in container["env"]:
        assert entry["name"] not in found
        source = entry.get("valueFrom")
        found[entry["name"]] = entry["value"] if source is None else downward[source["fieldRef"]["fieldPath"]]
    return {**found, **({"FIREZONE_TOKEN": "a token"} if "FIREZONE_TOKEN" in found else {})}


def relay_settings(workload: Object, host_ips: str) -> RelaySettings:
    return read_settings((), environment(workload, host_ips))


def standalone_settings(objects: list[Object], host_ips: str, folder: Path) -> RelaySettings:
    """With the file from its Secret, and a certificate where the file says that one is."""
    (secret,) = (one for one in objects if one["kind"] == "Secret")
    make_certificate(folder, "turn.example.org")
    for made, mounted in (("cert.pem", "tls.crt"), ("key.pem", "tls.key")):
        (folder / made).rename(folder / mounted)
    (folder / "relay.yaml").write_text(secret["stringData"]["relay.yaml"].replace("/etc/postern/tls/", f"{folder}/"))
    env = environment(part(objects, "relay"), host_ips)
    assert env["POSTERN_RELAY_CONFIG"] == "/etc/postern/relay/relay.yaml"
    return read_settings((), {**env, "POSTERN_RELAY_CONFIG": str(folder / "relay.yaml")})
