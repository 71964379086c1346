"""The chart as installed on a node of ``kube_node``, with a web Service, a client outside, a second relay beside it."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from charts.readme import CHART
from lab.portal_file import Tokens
from lab.processes import Process, spawn, wait_until
from lab.relay_metrics import RelayCounts, parse_counts
from lab.resource import PAGE, payload, payload_sha256
from tests.e2e.engine import EngineError
from tests.e2e.kube_node import NODE, OUTSIDE, POD_NETWORK, SECOND_RELAY, Node

NAME: Final = "postern"
DRAIN_SECONDS: Final = 15
PORTAL_PORT: Final = 30081
PORTAL_URL: Final = f"ws://{NODE}:{PORTAL_PORT}"
WEB: Final = "10.96.0.80"
TRANSFER_BYTES: Final = 20_000_000
SECOND_CLIENT_TOKEN: Final = "a-token-of-one-who-only-asks"
_POSTERN: Final = str(Path(sys.executable).with_name("postern"))
_STATUS: Final = "127.0.0.1:9100"
_WEB_OBJECTS: Final = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      securityContext: {{runAsUser: 10001, runAsNonRoot: true}}
      containers:
        - name: web
          image: postern-test/gateway:1
          imagePullPolicy: Never
          command: [/opt/postern/bin/python, -m, lab.resource, "8000"]
          readinessProbe: {{httpGet: {{port: 8000}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  clusterIP: {WEB}
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8000}}]
"""
# From outside the node shows what is its own, by which the portal is reached, and nothing else without a tunnel.
_RULES: Final = f"""
table ip postern_test {{
    chain forward {{
        type filter hook forward priority -10;
        iifname "{OUTSIDE}" meta l4proto tcp ct original ip daddr != {NODE} drop
    }}
}}
"""
# What makes hole punching impossible, while relays and the portal stay in reach.
_NO_DIRECT_PATH: Final = f"""
add rule ip postern_test forward iifname "{OUTSIDE}" ip daddr {POD_NETWORK} meta l4proto udp drop
add rule ip postern_test forward oifname "{OUTSIDE}" ip saddr {POD_NETWORK} meta l4proto udp drop
"""


def image(part: str, tag: str) -> dict[str, str]:
    return {"repository": f"postern-test/{part}", "tag": tag, "pullPolicy": "Never"}


class Release:
    """The chart with portal, relay and gateway; ``values`` are what it has been installed with."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.tokens = Tokens.random()
        self._client: Process | None = None
        self.values: dict[str, Any] = {
            "relay": {
                "image": image("relay", "1"),
                "token": {"value": self.tokens.relay},
                "offload": {"interfaces": [OUTSIDE]},
                "drainSeconds": DRAIN_SECONDS,
            },
            # Pods forward if the machine that the node pretends to be alone on does; that is not for a test to say.
            "gateway": {"image": image("gateway", "1"), "forwarding": "initContainer"},
            "portal": {
                "image": image("portal", "1"),
                "service": {"type": "NodePort", "nodePort": PORTAL_PORT},
                "config": {
                    "sites": [{"name": "default"}],
                    "resources": [{"name": "web", "type": "cidr", "address": f"{WEB}/32", "sites": ["default"]}],
                    "policies": [{"resource": "web", "groups": ["everyone"]}],
                    "tokens": [
                        {"type": "client", "token": self.tokens.client, "name": "laptop"},
                        {"type": "client", "token": SECOND_CLIENT_TOKEN, "name": "asking"},
                    ],
                },
            },
        }

    def start_web(self) -> None:
        self.node.run("kubectl", "apply", "--filename=-", text=_WEB_OBJECTS)
        self.node.run("kubectl", "rollout", "status", "deployment/web", "--timeout=60s", seconds=70)

    def install(self) -> None:
        try:
            self.node.run(*self.helm("install"), "--wait", "--timeout=100s", seconds=110)
            self.wait_ready()
        except EngineError as error:
            asked = (["describe", "pods"], ["logs", f"--selector=app.kubernetes.io/instance={NAME}", "--prefix"])
            said = [self.node.attempt("kubectl", *words).stdout for words in asked]
            raise EngineError("\n".join([str(error), *said])) from None

    def wait_ready(self) -> None:
        """Of a DaemonSet that may be down during an update Helm does not wait for any pod."""
        for name in (f"daemonset/{NAME}-relay", f"deployment/{NAME}-gateway", f"deployment/{NAME}-portal"):
            self.node.run("kubectl", "rollout", "status", name, "--timeout=60s", seconds=70)

    def uninstall(self) -> None:
        self.node.run("helm", "uninstall", NAME, "--wait", "--timeout=60s", seconds=70)
        # Helm waits for what it made; pods are made by others.
        wait_until(lambda: not self.pods(), "the pods are gone", seconds=60)

    def helm(self, verb: str, name: str = NAME, values: Mapping[str, Any] | None = None) -> list[str]:
        """A command with values in a file of its own."""
        return ["helm", verb, name, str(CHART), f"--values={self.values_file(values)}"]

    def values_file(self, values: Mapping[str, Any] | None = None) -> Path:
        path = self.node.folder / f"values-{uuid.uuid4().hex}.yaml"
        path.write_text(yaml.safe_dump(dict(self.values if values is None else values)))
        return path

    def pods(self, release: str = NAME, part: str = "") -> list[dict[str, Any]]:
        selector = f"app.kubernetes.io/instance={release}" + (f",app.kubernetes.io/component={part}" if part else "")
        found: list[dict[str, Any]] = self.get("pods", f"--selector={selector}")["items"]
        return found

    def get(self, *words: str) -> Any:
        return json.loads(self.node.run("kubectl", "get", *words, "--output=json"))

    def relay_counts(self) -> RelayCounts:
        """Relayed bytes by the path that carried them."""
        return parse_counts(self.ask_relay("metrics"), unit="bytes")

    def ask_relay(self, page: str) -> str:
        return self.node.run("curl", "-sSf", f"http://{NODE}:8080/{page}")

    def offload(self) -> Any:
        return json.loads(self.ask_relay("readyz"))["offload"]

    def let_direct(self, allowed: bool) -> None:
        """Open or close the direct path; what is connected stays as it is."""
        delete = "table ip postern_test\ndelete table ip postern_test\n"
        self.node.run("nft", "-f", "-", text=delete + _RULES + ("" if allowed else _NO_DIRECT_PATH))

    def start_client(self, *, direct: bool) -> Process:
        """A fresh client outside; ends the one before."""
        self.stop_client()
        self.let_direct(direct)
        env = _login(self.tokens.client, "laptop") | {
            "POSTERN_STATUS_ADDR": _STATUS,
            "FIREZONE_DNS_CONTROL": "disabled",
        }
        log = self.node.folder / "client.log"
        log.unlink(missing_ok=True)
        self._client = process = spawn("client", self.node.client, [_POSTERN, "client"], env, log)
        wait_until(lambda: " dev tun" in self.in_client("ip", "route", "get", WEB), "the client is ready", [process])
        return process

    def stop_client(self) -> None:
        if self._client is not None:
            self._client.terminate()
            self._client = None

    def path(self) -> str:
        connections = json.loads(self.in_client("curl", "-sSf", f"http://{_STATUS}/status"))["connections"]
        (path,) = [str(connection["path"]) for connection in connections]
        return path

    def fetch_page(self) -> None:
        assert self.in_client("curl", "-sSf", "--max-time", "20", f"http://{WEB}/") == PAGE.decode()

    def download(self) -> float:
        """Fetch much, towards the client; the share of bytes that XDP relayed."""
        url = f"http://{WEB}/bytes/{TRANSFER_BYTES}"
        before = self.relay_counts()
        said = self.in_client("bash", "-c", f"curl -sSf --max-time 60 {url} | sha256sum")
        assert said.split()[0] == payload_sha256(TRANSFER_BYTES)
        return _share(before, self.relay_counts())

    def upload(self) -> float:
        """Send much, towards the gateway; the share of bytes that XDP relayed."""
        path = self.node.folder / "upload"
        path.write_bytes(b"".join(payload(TRANSFER_BYTES)))
        before = self.relay_counts()
        said = self.in_client("curl", "-sSf", "--max-time", "60", "--upload-file", str(path), f"http://{WEB}/upload")
        assert json.loads(said) == {"bytes": TRANSFER_BYTES, "sha256": payload_sha256(TRANSFER_BYTES)}
        return _share(before, self.relay_counts())

    def in_client(self, *words: str) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", self.node.client, *words], capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, (
            f"{' '.join(words)}: {done.stderr} {self._client and self._client.log_text()[-1500:]}"
        )
        return done.stdout

    @contextmanager
    def second_relay(self) -> Iterator[Process]:
        """Another relay, on a machine beside the node."""
        env = _login(self.tokens.relay, "beside") | {"PUBLIC_IP4_ADDR": SECOND_RELAY, "POSTERN_DRAIN_SECONDS": "0"}
        log = self.node.folder / f"relay-2-{uuid.uuid4().hex[:4]}.log"
        process = spawn("relay-2", self.node.second_relay, [_POSTERN, "relay"], env, log)
        ask = ["ip", "netns", "exec", self.node.second_relay, "curl", "-sf", "http://127.0.0.1:8080/readyz"]
        try:
            wait_until(
                lambda: subprocess.run(ask, stdout=subprocess.DEVNULL, check=False).returncode == 0,
                "the second relay is ready",
                [process],
            )
            yield process
        finally:
            process.terminate()

    def veth_of(self, part: str) -> tuple[str, str]:
        """A pod's cable: the node's end, and the namespace of the other one, where it is ``eth0``."""
        (pod,) = self.pods(part=part)
        address = pod["status"]["podIP"]
        (route,) = json.loads(self.node.run("ip", "-json", "route", "get", address))
        names = [entry["name"] for entry in json.loads(self.node.run("ip", "-json", "netns", "list"))]
        (namespace,) = [n for n in names if f" {address}/" in self.node.run("ip", "-netns", n, "address", "show")]
        return str(route["dev"]), f"/run/netns/{namespace}"


def _share(before: RelayCounts, after: RelayCounts) -> float:
    xdp, python = after.xdp - before.xdp, after.python - before.python
    return xdp / max(1, xdp + python)


def _login(token: str, name: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "FIREZONE_API_URL": PORTAL_URL,
        "FIREZONE_TOKEN": token,
        "FIREZONE_NAME": name,
        "FIREZONE_ID": str(uuid.uuid4()),
        "RUST_LOG": "info",
    }
