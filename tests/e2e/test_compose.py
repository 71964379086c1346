"""The compose file, built and started for real, and looked at from outside its containers.

One project serves all tests; a test says which variant it needs. At the end ``down`` must leave nothing behind.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from ebpf import bpf_syscall
from lab.plan import masquerading_rules
from lab.processes import wait_until
from lab.relay_metrics import RelayCounts, parse_counts
from lab.resource import PAGE, payload_sha256
from tests.documented import claimed
from tests.e2e.engine import Engine, EngineError, Workshop, run
from tests.e2e.stage import PORTAL_AWAY

# The first test builds all images: some minutes on a small machine.
pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.timeout(1500)]

BEGIN: Final = ["docker", "compose", "--file", "compose/docker-compose.yml"]
ROOT: Final = Path(__file__).resolve().parents[2]
TARGETS: Final = ("relay", "gateway", "client", "portal", "network")
RELAYS: Final = ("relay-1", "relay-2")
ENDS: Final = ("client", "gateway-1", "gateway-2")
TRANSFER_BYTES: Final = 20_000_000
TUNNEL_MTU: Final = 1280


@dataclass(frozen=True)
class Variant:
    """What is chosen by variables of the compose file."""

    nat: str
    images: Mapping[str, str] = field(default_factory=dict, hash=False)

    def env(self) -> dict[str, str]:
        return {"CLIENT_NAT": self.nat, "GATEWAY_NAT": self.nat, **self.images}


DIRECT: Final = Variant("cone")
RELAYED: Final = Variant("symmetric")


class Project:
    """The compose project of this test run."""

    def __init__(self, workshop: Workshop) -> None:
        self.engine = engine = workshop.engine
        self.folder = workshop.folder
        self.images = {f"{name.upper()}_IMAGE": f"postern-test/{name}" for name in TARGETS}
        self.build_env = {"BASE_IMAGE": workshop.base, **self.images}
        if engine.is_ours:
            self.build_env["BUILD_NETWORK"] = "host"
        self._variant: Variant | None = None

    def compose(self, *words: str, env: Mapping[str, str] | None = None, seconds: float = 300) -> str:
        base = {**self.engine.env, **self.build_env, **(self._variant.env() if self._variant else {}), **(env or {})}
        file = str(self.folder / "compose/docker-compose.yml")
        return run([*self.engine.compose, "--file", file, *words], base, seconds=seconds)

    def ensure(self, variant: Variant) -> None:
        """Have this variant running; what differs is made anew."""
        if variant == self._variant:
            return
        if self._variant is not None:
            changing = ["user", *(name for end in ENDS for name in (end, f"{end}-router"))]
            self.compose("rm", "--stop", "--force", *changing)
        self._variant = variant
        self.compose("up", "--detach", "--no-build")
        wait_until(lambda: self.states()["client"] == "healthy", "the client is healthy", seconds=60)

    def ensure_ours(self) -> None:
        """Have any variant of our own programs running."""
        self.ensure(DIRECT if self._variant is None or self._variant.images else self._variant)

    def stop(self) -> dict[str, int]:
        """End all; the exit codes of our own programs, for which the order to end was more than a blow."""
        self.compose("stop", "--timeout", "10")
        ours = RELAYS if self._variant is None or self._variant.images else (*RELAYS, *ENDS)
        return {name: entry["State"]["ExitCode"] for name, entry in self.inspect().items() if name in ours}

    def inspect(self) -> dict[str, dict[str, Any]]:
        """All containers of the project by service; asked of the engine, which answers ten times as fast."""
        label = f"label=com.docker.compose.project={self.engine.env['COMPOSE_PROJECT_NAME']}"
        found = json.loads(
            self.engine.docker("inspect", *self.engine.docker("ps", "--all", "--quiet", "--filter", label).split())
        )
        return {entry["Config"]["Labels"]["com.docker.compose.service"]: entry for entry in found}

    def states(self) -> dict[str, str]:
        return {name: entry["State"].get("Health", {}).get("Status", "none") for name, entry in self.inspect().items()}

    def in_client(self, *words: str) -> str:
        return self.compose("exec", "-T", "client", *words)

    def relayed(self) -> RelayCounts:
        """What both relays count, asked from outside in their network namespaces."""
        counts = [parse_counts(self.ask(name, "8080", "/metrics")) for name in RELAYS]
        return RelayCounts(sum(count.xdp for count in counts), sum(count.python for count in counts))

    def ask(self, service: str, port: str, path: str) -> str:
        pid = self.inspect()[service]["State"]["Pid"]
        return run(["nsenter", f"--net=/proc/{pid}/ns/net", "curl", "-sSf", f"http://127.0.0.1:{port}{path}"])

    def paths(self) -> list[str]:
        return [str(entry["path"]) for entry in json.loads(self.ask("client", "9100", "/status"))["connections"]]

    def fetch(self) -> None:
        """The page and more through the tunnel, both whole."""
        assert self.in_client("curl", "-sSf", "--max-time", "20", "http://app.internal") == PAGE.decode()
        url = f"http://app.internal/bytes/{TRANSFER_BYTES}"
        digest = self.in_client("bash", "-c", f"curl -sSf --max-time 100 {url} | sha256sum")
        assert digest.split()[0] == payload_sha256(TRANSFER_BYTES)


@pytest.fixture(scope="module")
def project(workshop: Workshop) -> Iterator[Project]:
    engine = workshop.engine
    engine.start(can_build=True)
    made = Project(workshop)
    for name in ("relay", "gateway", "client", "portal", "network"):
        service = {"relay": "relay-1", "gateway": "gateway-1", "network": "far-end"}.get(name, name)
        made.compose("build", service, seconds=900)
    _, said = workshop.build("client")
    assert "Running in" not in said, "building again runs nothing"
    engine.start(can_build=False)
    pristine = traces(engine)
    try:
        yield made
    finally:
        codes = made.stop()
        made.compose("down", "--volumes", "--timeout", "5")
    assert set(codes.values()) <= {0}, codes
    assert traces(engine) == pristine


def traces(engine: Engine) -> dict[str, Any]:
    """What a project could leave behind in the engine's namespace and in the kernel."""
    where = engine.where()
    saved = [run([*where, program]).splitlines() for program in ("iptables-save", "ip6tables-save")]
    return {
        "containers": engine.docker("ps", "--all", "--quiet"),
        "networks": engine.docker("network", "ls", "--quiet"),
        "volumes": engine.docker("volume", "ls", "--quiet"),
        "links": sorted(link["ifname"] for link in json.loads(run([*where, "ip", "-json", "link"]))),
        # Of the rules those for a network; the engine keeps some of its own from the first one on.
        "rules": [[line for line in lines if "br-" in line] for lines in saved],
    }


def test_direct(project: Project) -> None:
    project.ensure(DIRECT)
    project.fetch()
    assert project.paths() == ["PeerToPeer"]


def test_the_clients_resolver_knows_the_name_and_asks_for_others(project: Project) -> None:
    """No hosts file has it, and the engine's DNS has it for the gateways only."""
    project.ensure_ours()
    for service in ("client", "user"):
        said = partial(project.compose, "exec", "-T", service)
        assert "app.internal" not in said("cat", "/etc/hosts")
        servers = [line for line in said("cat", "/etc/resolv.conf").splitlines() if line.startswith("nameserver")]
        assert servers == ["nameserver 100.100.111.1"]
        for family, proxies in (("4", "100.96."), ("6", "fd00:2021:1111:8000:")):
            command = ("curl", "-sSf", f"-{family}", "--max-time", "20", "--write-out", "%{remote_ip}")
            page, address = said(*command, "http://app.internal").rsplit("\n", 1)
            assert f"{page}\n" == PAGE.decode()
            assert address.startswith(proxies)
        assert said("getent", "ahostsv4", "client-router").startswith("10.30.0.253 ")  # by the engine's DNS


def test_relayed_by_xdp(project: Project) -> None:
    project.ensure(RELAYED)
    project.in_client("curl", "-sSf", "--max-time", "20", "http://app.internal")
    before = project.relayed()
    project.fetch()
    after = project.relayed()
    xdp, python = after.xdp - before.xdp, after.python - before.python
    assert [path.startswith("Relay") for path in project.paths()] == [True]
    assert xdp > TRANSFER_BYTES / TUNNEL_MTU, "the data went through XDP"
    assert python < xdp / 100
    for relay in RELAYS:
        offload = json.loads(project.ask(relay, "8080", "/readyz"))["offload"]
        assert (offload["mode"], offload["egress"]) == ("native", {"eth0": "verified"})


@pytest.mark.peers
def test_upstream_takes_the_place_of_client_and_gateway(
    project: Project, peer_programs: dict[str, Path], tmp_path: Path
) -> None:
    """Programs as in Firezone's images: started by root, token by a file's path, masquerading by their surroundings."""
    images = {}
    for name, program in (("client", "firezone-headless-client"), ("gateway", "firezone-gateway")):
        shutil.copy(peer_programs[program], tmp_path / "program")
        (tmp_path / "rules").write_text(masquerading_rules() if name == "gateway" else "")
        masquerade = "nft -f /rules && " if name == "gateway" else ""
        start = f'#!/bin/sh\n{masquerade}FIREZONE_TOKEN=$(cat "$FIREZONE_TOKEN") exec /program\n'
        (tmp_path / "start").write_text(start)
        (tmp_path / "start").chmod(0o755)
        (tmp_path / "Dockerfile").write_text(
            f'FROM postern-test/{name}\nCOPY program start rules /\nENTRYPOINT ["/start"]\n'
        )
        images[f"{name.upper()}_IMAGE"] = f"postern-test/upstream-{name}"
        project.engine.docker("build", "--quiet", "--tag", f"postern-test/upstream-{name}", str(tmp_path))
    project.ensure(Variant("symmetric", images))
    before = project.relayed()
    project.fetch()
    assert project.relayed().xdp - before.xdp > TRANSFER_BYTES / TUNNEL_MTU, "our relays' XDP carried it"


def test_all_are_healthy_and_confined(project: Project) -> None:
    project.ensure_ours()
    wait_until(lambda: set(project.states().values()) == {"healthy"}, "all are healthy", seconds=60)
    for name, entry in project.inspect().items():
        host = entry["HostConfig"]
        assert not host["Privileged"], name
        assert host["ReadonlyRootfs"] is (name != "client"), name  # which writes the engine's resolv.conf
        assert host["CapDrop"] == ["ALL"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
    for name in ("relay-1", "gateway-1", "client", "portal"):
        users = project.compose("exec", "-T", name, "sh", "-c", "grep -lE '^Uid:.*10001' /proc/[0-9]*/status")
        assert users.strip(), f"{name} runs as its own user"


# With the address behind the router, as in the file: or else a warning says that no interface has the public one.
ADDRESSES: Final = ("--env", "PUBLIC_IP4_ADDR=203.0.113.101", "--env", "EBPF_INT4_ADDR=10.29.1.100")
RELAY: Final = ("RELAY_IMAGE", *ADDRESSES, "--env", "FIREZONE_API_URL=ws://localhost:1")
GATEWAY: Final = ("GATEWAY_IMAGE", "--env", "FIREZONE_API_URL=ws://localhost:1", "--env", "FIREZONE_ID=bad")
TOKEN: Final = ("--env", "FIREZONE_TOKEN=a-token-of-nobody")
# What the entry point needs to become another user.
USER: Final = ("--cap-drop", "ALL", "--cap-add", "SETUID", "--cap-add", "SETGID")
PRIVILEGED: Final = (*USER, "--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW", "--cap-add", "SYS_ADMIN")
NATIVE: Final = ("--env", "POSTERN_EBPF=native", "--env", "POSTERN_EBPF_INTERFACES=lo")
NO_BPF: Final = ("--security-opt", "seccomp=NO_BPF")
# A kernel that has no bpf(2): 38 is ENOSYS.
WITHOUT_BPF: Final = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
}
BAD: Final = {
    "missing secret": (2, "/run/secrets/token: No such file", (*RELAY, "--env", "FIREZONE_TOKEN=/run/secrets/token")),
    "unknown value": (2, "POSTERN_EBPF is 'maybe': expected one of", (*RELAY, *TOKEN, "--env", "POSTERN_EBPF=maybe")),
    "unknown name": (2, "POSTERN_TYPO is not a known setting", (*GATEWAY, *TOKEN, "--env", "POSTERN_TYPO=1")),
    "port in use": (1, "cannot", (*RELAY, *TOKEN, "--network", "container:relay-1")),
    "no capability for the device": (1, "not permitted", (*GATEWAY, *TOKEN, *USER, "--device", "/dev/net/tun")),
    "no device": (1, "/dev/net/tun", (*GATEWAY, *TOKEN, *USER, "--cap-add", "NET_ADMIN")),
    "kernel without BPF": (1, "cannot offload: bpf(2) is not", (*RELAY, *TOKEN, *PRIVILEGED, *NATIVE, *NO_BPF)),
    "unknown kind of NAT": (2, "NAT is 'maybe': expected cone or symmetric", ("NETWORK_IMAGE", "--env", "NAT=maybe")),
    "portal without its file": (2, "POSTERN_PORTAL_CONFIG (or --config) is not set", ("PORTAL_IMAGE",)),
    "no capability for BPF": (1, "CAP_BPF is missing", (*RELAY, *TOKEN, *USER, *NATIVE, "--cap-add", "NET_ADMIN")),
}  # fmt: skip


@pytest.mark.parametrize(("code", "words", "options"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_harms_nobody(
    project: Project, tmp_path: Path, code: int, words: str, options: tuple[str, ...]
) -> None:
    project.ensure_ours()
    running = project.inspect()
    before = {name: entry["State"]["StartedAt"] for name, entry in running.items()}
    profile = tmp_path / "seccomp.json"
    profile.write_text(json.dumps(WITHOUT_BPF))
    image, *flags = options
    actual = {"container:relay-1": f"container:{running['relay-1']['Id']}", "seccomp=NO_BPF": f"seccomp={profile}"}
    flags = [actual.get(flag, flag) for flag in flags]
    if "--network" not in flags:
        flags += ["--network", "none"]
    started = project.engine.docker("run", "--detach", "--read-only", "--tmpfs", "/tmp", *flags, project.images[image])
    container = started.strip()
    try:
        assert project.engine.docker("wait", container).strip() == str(code), _logs(project, container)
        # The portal is asked first, and is not there: that may be told before what ends the service.
        said = [line for line in _logs(project, container).splitlines() if PORTAL_AWAY not in line]
        complaints = [line for line in said if " INFO " not in line]
    finally:
        project.engine.docker("rm", "--force", container)
    assert len(complaints) == 1, complaints
    assert words in complaints[0]
    running = project.inspect()
    assert {name: entry["State"]["StartedAt"] for name, entry in running.items()} == before
    assert all(entry["State"]["Running"] for entry in running.values())


def test_a_file_that_an_editor_made_anew_counts_from_the_next_hangup_on(project: Project) -> None:
    project.ensure_ours()
    file = project.folder / "compose/portal/portal.yaml"
    before = file.read_text(encoding="utf-8")
    reach = ("curl", "--silent", "--output", "/dev/null", "--max-time", "5", "http://app.internal")
    project.in_client(*reach)
    try:
        replace(file, re.sub(r"^policies:.*?(?=^\w)", "policies: []\n", before, flags=re.MULTILINE | re.DOTALL))
        project.compose("kill", "-s", "HUP", "portal")
        wait_until(lambda: not project.paths(), "no access is left", seconds=20)
        with pytest.raises(EngineError):
            project.in_client(*reach)
    finally:
        replace(file, before)
        project.compose("kill", "-s", "HUP", "portal")
    project.in_client(*reach[:-3], "--max-time", "20", reach[-1])


def replace(file: Path, content: str) -> None:
    """As editors and ``sed -i`` do: a new file under the old name."""
    made = file.with_suffix(".new")
    made.write_text(content, encoding="utf-8")
    made.rename(file)


def test_the_admin_command_works_as_the_containers_root(project: Project) -> None:
    project.ensure_ours()
    assert project.compose("exec", "-T", "relay-1", "postern", "relay", "admin", "list").startswith("port ")


def test_the_documented_commands(project: Project) -> None:
    """Word by word; ``down`` is what ends every run of these tests, so here it comes last only in the documents."""
    project.ensure_ours()
    project.compose("rm", "--stop", "--force", "user", "client")  # so that "up" has something to wait for
    for command in claimed("test_compose::test_the_documented_commands"):
        words = command.split()
        if words[:3] == BEGIN[:3]:
            said = _compose_as_documented(project, words[len(BEGIN) :])
            assert said == PAGE.decode() or not command.endswith("http://app.internal")
        elif words[:2] == ["docker", "build"]:
            # The engine of these tests has no way out by now, but all is built.
            base = f"BASE={project.build_env['BASE_IMAGE']}"
            project.engine.docker(*words[1:-1], "--network", "host", "--build-arg", base, str(project.folder))
        else:
            project.engine.docker(*words[1:])


def _compose_as_documented(project: Project, words: list[str]) -> str:
    if words[0] == "down":
        return ""
    # Built before; and a test has no terminal.
    words = [word for word in words if word != "--build"]
    return project.compose(*(["exec", "-T", *words[1:]] if words[0] == "exec" else words))


def test_xdp_goes_with_its_relay(project: Project) -> None:
    project.ensure_ours()
    held = len(_programs(project))
    assert held == len(RELAYS)
    project.compose("stop", "--timeout", "10", "relay-2")
    try:
        assert len(_programs(project)) == held - 1
    finally:
        project.compose("start", "relay-2")
        wait_until(lambda: project.states()["relay-2"] == "healthy", "the relay is back", seconds=60)


def _programs(project: Project) -> list[int]:
    """The XDP programs on our relays' interfaces."""
    found = []
    for relay in RELAYS:
        pid = project.inspect()[relay]["State"]["Pid"]
        if pid:
            shown = json.loads(run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-json", "link", "show", "eth0"]))
            found += [int(link["xdp"]["prog"]["id"]) for link in shown if "xdp" in link]
    known = {link.program_id for link in bpf_syscall.xdp_links()}
    return [program for program in found if program in known]


def _logs(project: Project, container: str) -> str:
    done = subprocess.run(
        ["docker", "logs", container],
        env={**os.environ, **project.engine.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=20,
        check=False,
    )
    if done.returncode != 0:
        raise EngineError(done.stdout)
    return done.stdout
