"""The chart, really installed: pods that run, probes that pass, packets that flow, and nothing left after it.

One node and one release serve all tests; each brings a client of its own.
"""

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from charts.readme import CHART
from connectivity.stun import Method, RequestedTransport
from ebpf import bpf_syscall
from lab.processes import wait_until
from tests.documented import ROOT, claimed
from tests.e2e.engine import Workshop, install
from tests.e2e.kube_node import BESIDE, CLIENT, NODE, OUTSIDE, Node, kubernetes_node
from tests.e2e.kube_release import (
    DRAIN_SECONDS,
    NAME,
    PORTAL_URL,
    SECOND_CLIENT_TOKEN,
    TRANSFER_BYTES,
    WEB,
    Release,
    image,
)
from tests.e2e.stage import PORTAL_AWAY, is_within
from tests.e2e.turn_newcomer import newcomers
from tests.unit.relay.playbook import error_code

# The first test builds images and starts the node.
pytestmark = [
    pytest.mark.root,
    pytest.mark.kube,
    pytest.mark.long,
    pytest.mark.timeout(1500),
]

IMAGES: Final = ("relay", "gateway", "portal")
MOST: Final = 0.9
ALL_KINDS: Final = "daemonsets,deployments,services,secrets,serviceaccounts"
UDP: Final = RequestedTransport(17)
ROUTES: Final = (("-4", "route", "show", "table", "all"), ("-6", "route", "show"))


@dataclass(frozen=True)
class Stage:
    release: Release
    rows: list[tuple[str, str, float, float]] = field(default_factory=list)

    def measure(self, what: str) -> float:
        """One more row of the table; the share of bytes towards the client that XDP relayed."""
        found = self.release.download(), self.release.upload()
        self.rows.append((what, self.release.path(), *found))
        return found[0]

    def table(self) -> str:
        head = f"{'relayed by XDP':40}{'path':14}{'towards client':>16}{'towards gateway':>17}"
        lines = [f"{what:40}{path:14}{down:>16.1%}{up:>17.1%}" for what, path, down, up in self.rows]
        return "\n".join(["", head, *lines])


@pytest.fixture(scope="module")
def stage(workshop: Workshop, kube_tool: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    workshop.engine.start(can_build=True)
    built = {workshop.build(name)[0]: ("1", "2") for name in IMAGES}
    with kubernetes_node(kube_tool, workshop.engine) as node:
        node.start(built)
        release = Release(node)
        release.start_web()
        release.let_direct(True)
        pristine = traces(node)
        release.install()
        made = Stage(release)
        yield made
        release.stop_client()
        capture = request.config.pluginmanager.get_plugin("capturemanager")
        assert capture is not None
        with capture.global_and_fixture_disabled():
            print(made.table())
        attached = xdp_programs(node)
        assert attached
        release.let_direct(True)
        release.uninstall()
        # The kernel and the container runtime may still be at it.
        is_within(lambda: traces(node) == pristine and not any(map(is_loaded, attached)), 20)
        assert traces(node) == pristine
        assert not any(map(is_loaded, attached))


def traces(node: Node) -> dict[str, Any]:
    """What a release could leave behind."""
    rules = json.loads(node.run("nft", "--json", "list", "ruleset"))["nftables"]
    return {
        "objects": node.run("kubectl", "get", ALL_KINDS, "--output=name").split(),
        "links": sorted((link["ifname"], "xdp" in link) for link in json.loads(node.run("ip", "-json", "link"))),
        "addresses": [line.split()[1:4] for line in node.run("ip", "-oneline", "address").splitlines()],
        # Of IPv6 not those that come with each address when nobody else turns out to have it.
        "routes": [sorted(node.run("ip", *words).splitlines()) for words in ROUTES],
        "rules": [node.run("ip", family, "rule") for family in ("-4", "-6")],
        "tables": sorted(json.dumps(one["table"]) for one in rules if "table" in one and one["table"].pop("handle")),
        "nat": sorted(line for line in node.run("iptables-save").splitlines() if line.startswith("-A")),
        "pinned": node.run("ls", "/sys/fs/bpf"),
        "namespaces": sorted(node.run("ls", "/run/netns").split()),
    }


def xdp_programs(node: Node) -> list[int]:
    return [int(link["xdp"]["prog"]["id"]) for link in json.loads(node.run("ip", "-json", "link")) if "xdp" in link]


def is_loaded(program: int) -> bool:
    try:
        bpf_syscall.program_info_by_id(program)
    except FileNotFoundError:
        return False
    return True


def test_direct(stage: Stage) -> None:
    release = stage.release
    release.start_client(direct=True)
    release.fetch_page()
    wait_until(lambda: release.path() == "PeerToPeer", "the path is direct")
    before = release.relay_counts()
    release.download()
    release.upload()
    after = release.relay_counts()
    assert after.xdp + after.python - before.xdp - before.python < TRANSFER_BYTES / 100


def test_the_documented_commands(stage: Stage) -> None:
    """Nothing has changed, so no pod is restarted; Helm's own test passes."""
    release = stage.release
    actual = {"charts/postern": str(CHART), "my-values.yaml": str(release.values_file())}
    for command in claimed("test_kube::test_the_documented_commands"):
        release.node.run(*[actual.get(word, word) for word in command.split()], seconds=70)


def test_what_the_api_server_stores(stage: Stage) -> None:
    release = stage.release
    relay = release.get("daemonset", f"{NAME}-relay")["spec"]
    assert relay["updateStrategy"]["rollingUpdate"]["maxSurge"] == 0
    pod = relay["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > DRAIN_SECONDS
    assert {"name": "POSTERN_DRAIN_SECONDS", "value": str(DRAIN_SECONDS)} in pod["containers"][0]["env"]
    pods = release.pods()
    assert {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods} >= {"relay", "gateway", "portal"}
    for pod in pods:
        assert pod["spec"]["enableServiceLinks"] is False
        assert all(one["securityContext"]["readOnlyRootFilesystem"] for one in pod["spec"]["containers"])


def test_an_upgrade_drains_the_relay(stage: Stage) -> None:
    """XDP of the new relay is on the cable of the gateway's pod, too, whose far end takes no frames from it."""
    release, node = stage.release, stage.release.node
    client = release.start_client(direct=False)
    release.fetch_page()
    assert "Relay" in release.path()
    stage.measure("relayed, XDP towards the client only")
    (old,) = release.pods(part="relay")
    name = old["metadata"]["name"]
    veth, namespace = release.veth_of("gateway")
    node.run("nsenter", f"--net={namespace}", "ethtool", "-K", "eth0", "tx", "off")

    release.values["relay"]["image"] = image("relay", "2")
    release.values["relay"]["offload"]["interfaces"] = [OUTSIDE, veth]
    watched, logged = node.folder / "watched.log", node.folder / "old-relay.log"
    with (
        node.running("kubectl", "get", "pod", name, "--watch", "--output=json", log=watched),
        node.running("kubectl", "logs", "--follow", name, log=logged),
        newcomers(node.client, CLIENT, PORTAL_URL, SECOND_CLIENT_TOKEN, 2) as (early, late),
        release.second_relay() as second,
    ):
        early.allocate(UDP)
        with (
            fetching(release) as failures,
            node.running(*release.helm("upgrade"), "--wait", log=node.folder / "upgrade.log") as upgrade,
        ):
            wait_until(lambda: "Draining" in logged.read_text(), "the relay drains", seconds=30)
            began = time.monotonic()
            assert error_code(late.call(Method.ALLOCATE, UDP)) == 508
            assert error_code(early.call(Method.REFRESH)) == 0
            wait_until(lambda: "Migrating connection to new relay" in client.log_text(), "the client moves", [second])
            wait_until(lambda: bool(exit_codes(watched)), "the relay ends", seconds=DRAIN_SECONDS + 20)
            assert DRAIN_SECONDS / 3 < time.monotonic() - began < DRAIN_SECONDS + 15
            assert exit_codes(watched) == {0}
            assert upgrade.wait(100) == 0, (node.folder / "upgrade.log").read_text()
            release.wait_ready()
            release.fetch_page()
        assert failures() <= 1
    (new,) = release.pods(part="relay")
    assert new["spec"]["containers"][0]["image"].endswith(":2")

    release.start_client(direct=False)
    release.fetch_page()
    towards_client = stage.measure("relayed, XDP towards client and pod")
    assert towards_client > MOST
    assert release.offload() == {"mode": "native", "reason": "", "egress": {OUTSIDE: "verified", veth: "swallows"}}


def exit_codes(log: Path) -> set[int]:
    """How a watched pod's containers ended, as far as the API server has told."""
    found, text, decoder = set(), log.read_text(), json.JSONDecoder()
    while text := text.lstrip():
        try:
            pod, length = decoder.raw_decode(text)
        except json.JSONDecodeError:
            break  # the rest is on its way
        states = [one["state"] for one in pod["status"].get("containerStatuses", ())]
        found |= {state["terminated"]["exitCode"] for state in states if "terminated" in state}
        text = text[length:]
    return found


def test_a_turn_server_alone(stage: Stage, tmp_path: Path) -> None:
    """Beside the other release, so with other ports; the client's machine has coturn's client."""
    release, node = stage.release, stage.release.node
    before = starts(release)
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    values = yaml.safe_load(text.partition("```yaml\n# turn-values.yaml\n")[2].partition("```")[0])
    values["relay"] |= {"image": image("relay", "1"), "drainSeconds": 0, "probes": {"readiness": {"periodSeconds": 1}}}
    values["relay"] |= {"listenPort": 4479, "lowestPort": 40100, "highestPort": 40199, "healthPort": 8181}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    install(("turnutils_uclient",), ("coturn",))
    setup, test, listing, reload = claimed("test_kube::test_a_turn_server_alone")
    actual = {"charts/postern": str(CHART), "turn-values.yaml": str(tmp_path / "values.yaml")}
    with ExitStack() as stack:
        stack.callback(wait_until, lambda: not release.pods("turn"), "its pod is gone", seconds=60)
        stack.callback(node.run, "helm", "uninstall", "turn", "--wait")
        said = node.run(*[actual.get(word, word) for word in setup.split()])
        assert "turn:ADDRESS-OF-A-NODE:4479" in said
        node.run("kubectl", "rollout", "status", "daemonset/turn-postern-relay", "--timeout=60s", seconds=70)
        node.run(*test.split(), seconds=70)
        ask = ["turnutils_uclient", "-y", "-u", "alice", "-w", "secret", "-p", "4479", NODE]
        assert "Total lost packets 0 (0.000000%)" in release.in_client(*ask)
        assert node.run(*listing.split()).startswith("port ")
        node.run(*shlex.split(reload))
        log = ["kubectl", "logs", "daemonset/turn-postern-relay"]
        wait_until(lambda: "Configuration read again" in node.run(*log), "the file is read again")
    assert starts(release) == before


BAD_PORT: Final = 4478
# A profile of the kind that hardened nodes have.
WITHOUT_BPF: Final = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
}
SECCOMP: Final = {"type": "Localhost", "localhostProfile": "without-bpf.json"}
DEMAND: Final = {"interfaces": [BESIDE], "mode": "native"}
BAD: Final[dict[str, tuple[int, str, dict[str, Any]]]] = {
    "missing secret": (2, "/etc/postern/relay/token: No such file", {"token": {"existingSecret": "not-there"}}),
    "port in use": (1, "cannot", {}),
    "no BPF": (1, "bpf", {"offload": DEMAND, "podSecurityContext": {"fsGroup": 10001, "seccompProfile": SECCOMP}}),
}


@pytest.mark.parametrize(("code", "words", "values"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_harms_nobody(stage: Stage, code: int, words: str, values: dict[str, Any]) -> None:
    release, node = stage.release, stage.release.node
    before = starts(release)
    relay = {"image": image("relay", "1"), "token": {"value": release.tokens.relay}, "drainSeconds": 0, **values}
    relay |= {"listenPort": BAD_PORT, "lowestPort": 40000, "highestPort": 40099, "healthPort": 8180}
    others = {"portalUrl": PORTAL_URL, "portal": {"enabled": False}, "gateway": {"enabled": False}}
    node.add_seccomp_profile(SECCOMP["localhostProfile"], WITHOUT_BPF)
    with ExitStack() as stack:
        if not values:
            stack.enter_context(squatting(node))
        node.run(*release.helm("install", "bad", {"relay": relay, **others}))
        stack.callback(wait_until, lambda: not release.pods("bad"), "its pod is gone", seconds=60)
        stack.callback(node.run, "helm", "uninstall", "bad", "--wait")
        wait_until(lambda: any("waiting" in state for state in crashed(release)), "it has ended for good", seconds=60)
        (pod,) = release.pods("bad")
        said = node.run("kubectl", "logs", pod["metadata"]["name"])
    (status,) = pod["status"]["containerStatuses"]
    assert status["lastState"]["terminated"]["exitCode"] == code, said
    complaints = [line for line in said.splitlines() if " INFO " not in line and PORTAL_AWAY not in line]
    assert len(complaints) == 1, complaints
    assert words in complaints[0]
    assert starts(release) == before


def starts(release: Release) -> dict[str, Any]:
    """When each container was started, and whether it is ready."""
    return {
        pod["metadata"]["name"]: [(one["ready"], one["state"]) for one in pod["status"]["containerStatuses"]]
        for pod in release.pods()
    }


def crashed(release: Release) -> list[dict[str, Any]]:
    """What containers of the bad release do that have ended at least once: the next attempt is not made at once."""
    statuses = [one for pod in release.pods("bad") for one in pod["status"].get("containerStatuses", ())]
    return [one["state"] for one in statuses if "terminated" in one["lastState"]]


@contextmanager
def squatting(node: Node) -> Iterator[None]:
    """Somebody else on the node has the port."""
    with node.running("socat", "-u", f"UDP-RECV:{BAD_PORT}", "-", log=node.folder / "squatter.log"):
        wait_until(lambda: f":{BAD_PORT} " in node.run("ss", "-Hlun"), "the port is in use")
        yield


@contextmanager
def fetching(release: Release) -> Iterator[Callable[[], int]]:
    """Fetch the page again and again; yields a function that tells how many fetches failed."""
    log = release.node.folder / "fetches"
    fetch = f"curl -sf --max-time 8 --output /dev/null http://{WEB}/"
    loop = f"while :; do {fetch} && echo whole || echo lost; sleep 0.2; done"
    with log.open("wb") as output:
        process = subprocess.Popen(["ip", "netns", "exec", release.node.client, "bash", "-c", loop], stdout=output)
    try:
        yield lambda: log.read_text().count("lost")
    finally:
        process.kill()
        process.wait()
    assert log.read_text().endswith("whole\n")
