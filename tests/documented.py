"""The commands in README.md and docs/, and who runs each of them.

A command is a line of a fenced ``sh`` block, or inline code that begins with one of ``PROGRAMS`` and goes on.
``test_docs`` holds the table to the documents, both ways; a test takes its commands from here, so that what is run is
what is written.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
# behaviours.md only tells of commands; its tests are checked one by one.
DOCUMENTS: Final = (
    ROOT / "README.md",
    *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "behaviours.md"),
)
PROGRAMS: Final = (
    "curl", "docker", "ethtool", "git", "helm", "ip", "kill", "kubectl", "make", "nft", "nstat", "openssl", "postern",
    "ss", "sysctl", "turnutils_uclient",
)  # fmt: skip

_COMPOSE: Final = "docker compose --file compose/docker-compose.yml "
_TURN: Final = "docker compose --file compose/turn/docker-compose.yml "
_TURN_BY_COMPOSE: Final = "test_compose_turn::test_the_documented_commands"
_TURN_BY_HELM: Final = "test_kube::test_a_turn_server_alone"
_BY_HELM: Final = "test_kube::test_the_documented_commands"
_BY_COMPOSE: Final = "test_compose::test_the_documented_commands"
_AT_THE_RELAY: Final = "test_troubleshooting::test_commands_at_the_relay"
_AT_THE_GATEWAY: Final = "test_troubleshooting::test_commands_at_the_gateway"
_AT_THE_CLIENT: Final = "test_troubleshooting::test_commands_at_the_client"
_ALONE: Final = "test_relay_standalone::test_the_documented_commands"
_ANYWHERE: Final = "test_troubleshooting::test_commands_for_anywhere"
_CI: Final = ".ci/run"

# In prose these name a thing; nobody is told to type them.
_NAMES: Final = frozenset(
    f"postern {name}"
    for name in (
        "relay|gateway|client|portal",
        "relay admin",
        "portal",
        "demo",
        "bench",
        "bench compare",
        "bench faults",
        "bench relay",
        "bench siege",
        "bench stack",
    )
)
# Command: the test that runs it, or .ci/run where that does.
CLAIMS: Final[dict[str, str]] = {
    "make check": _CI,
    "make demo": _CI,
    "make test": _CI,
    _COMPOSE + "up --detach --build": _BY_COMPOSE,
    _COMPOSE + "up --detach": _BY_COMPOSE,
    _COMPOSE + "exec user curl http://app.internal": _BY_COMPOSE,
    _COMPOSE + "ps": _BY_COMPOSE,
    _COMPOSE + "logs relay-1": _BY_COMPOSE,
    _COMPOSE + "exec relay-1 postern doctor relay": _BY_COMPOSE,
    _COMPOSE + "kill -s HUP portal": _BY_COMPOSE,
    _COMPOSE + "down": _BY_COMPOSE,
    "docker build --file compose/Dockerfile --target relay .": _BY_COMPOSE,
    "docker network ls": _BY_COMPOSE,
    "docker version": _BY_COMPOSE,
    _TURN + "up --detach --build": _TURN_BY_COMPOSE,
    "turnutils_uclient -y -u alice -w secret 203.0.113.5": _TURN_BY_COMPOSE,
    _TURN + "exec relay postern relay admin list": _TURN_BY_COMPOSE,
    _TURN + "kill -s HUP relay": _TURN_BY_COMPOSE,
    _TURN + "stop": _TURN_BY_COMPOSE,
    "helm install turn charts/postern --values turn-values.yaml": _TURN_BY_HELM,
    "helm test turn": _TURN_BY_HELM,
    "kubectl exec daemonset/turn-postern-relay -- postern relay admin list": _TURN_BY_HELM,
    "kubectl exec daemonset/turn-postern-relay -- setpriv --reuid postern bash -c 'kill -HUP 1'": _TURN_BY_HELM,
    "helm install postern charts/postern --values my-values.yaml": "test_chart_api::test_the_documented_install",
    "helm uninstall postern": "test_chart_api::test_the_documented_install",
    "helm upgrade postern charts/postern --values my-values.yaml": _BY_HELM,
    "kubectl rollout status daemonset/postern-relay": _BY_HELM,
    "helm test postern": _BY_HELM,
    "curl --silent http://127.0.0.1:8080/readyz": _AT_THE_RELAY,
    "curl --silent http://127.0.0.1:8080/metrics": _AT_THE_RELAY,
    "ethtool --show-features eth0": _AT_THE_RELAY,
    "ip -details link show dev eth0": _AT_THE_RELAY,
    "ip neighbour show dev eth0": _AT_THE_RELAY,
    "ss --listening --udp --numeric --processes": _AT_THE_RELAY,
    "nft list table inet postern_gateway": _AT_THE_GATEWAY,
    "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding": _AT_THE_GATEWAY,
    "ip route get 10.20.0.100": _AT_THE_GATEWAY,
    "postern gateway status": _AT_THE_GATEWAY,
    "nstat --zeros UdpRcvbufErrors UdpSndbufErrors Udp6RcvbufErrors Udp6SndbufErrors": _AT_THE_GATEWAY,
    "curl --silent http://127.0.0.1:9100/status": _AT_THE_CLIENT,
    "ip -details link show dev tun-firezone": _AT_THE_CLIENT,
    "ip route show table all dev tun-firezone": _AT_THE_CLIENT,
    "ip rule": _AT_THE_CLIENT,
    "postern client status": _AT_THE_CLIENT,
    "postern client status --json": _AT_THE_CLIENT,
    "postern client log debug": _AT_THE_CLIENT,
    "nft list ruleset": _AT_THE_CLIENT,
    "postern relay --config relay.yaml": _ANYWHERE,
    "postern relay admin list": _ALONE,
    "postern relay admin show 50123": _ALONE,
    "postern relay admin offload": _ALONE,
    "postern relay admin log debug": _ALONE,
    "postern relay admin end 50123": _ALONE,
    "kill -HUP PID": _ALONE,
    "postern doctor": _ANYWHERE,
    "postern doctor relay": _ANYWHERE,
    "postern doctor gateway": _ANYWHERE,
    "postern doctor client": _ANYWHERE,
    "postern relay --help": _ANYWHERE,
    "postern portal --config portal.yaml": _ANYWHERE,
    "openssl rand -base64 24 | tr '+/' '-_'": _ANYWHERE,
}
# Command: why no test can run it.
NOT_RUN: Final[dict[str, str]] = {
    "make test-kernels": "make test-long, which .ci/run runs, has the same tests",
    "make soak": "it does not end; the property test of the simulated world runs the same cases by number",
    **dict.fromkeys(
        (
            "python3 -m venv --system-site-packages /opt/postern && /opt/postern/bin/pip install .",
            "install -D --mode 0644 dist/postern.sysusers /etc/sysusers.d/postern.conf && systemd-sysusers",
            "install -D --mode 0644 dist/*.service --target-directory /etc/systemd/system && systemctl daemon-reload",
            (
                "install -D --mode 0644 dist/postern-relay-offload.conf"
                " /etc/systemd/system/postern-relay.service.d/offload.conf"
            ),
            "systemctl enable --now postern-client",
        ),
        "changes the host; the units themselves are tested by test_service_units",
    ),
    "git pull": "what it fetches is not this version's to test",
    "export GATEWAY_IMAGE=$REGISTRY/gateway:1.4.17 CLIENT_IMAGE=$REGISTRY/client:1.5.4": (
        "needs a registry; test_upstream_takes_the_place_of_client_and_gateway does it with images of its own"
    ),
    "unset GATEWAY_IMAGE CLIENT_IMAGE": "undoes the former in a shell",
    'make bench ARGS="--peers DIRECTORY --rounds 3 --seconds 5"': "needs upstream's programs and many minutes alone",
    'make perf ARGS="--rounds 3 --history history.jsonl --svg picture.svg"': (
        "many minutes; .ci/run has the short form, test_bench_stack the same flags"
    ),
    'make bench-faults ARGS="--json figures.json"': "minutes, red on a busy machine; test_bench_faults has some of it",
    'make bench-siege ARGS="--json figures.json"': "minutes, red on a busy machine; test_bench_siege has some of it",
    "postern bench scale --json figures.json": "minutes, red on a busy machine; test_bench_scale counts its steps",
    'make bench-relay ARGS="--rounds 3 --json figures.json"': (
        "many minutes, and coturn; test_bench_relay has a short form"
    ),
}


def commands(document: Path) -> Iterator[str]:
    """What a document tells people to type."""
    text = document.read_text(encoding="utf-8")
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if command := re.sub(r"\s+#.*", "", line).strip():
                yield command
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", prose):
        if re.match(rf"({'|'.join(PROGRAMS)}) \S", code) and code not in _NAMES:
            yield code


def claimed(test: str) -> list[str]:
    """The commands that a test has to run, in the order of the table."""
    return [command for command, claimant in CLAIMS.items() if claimant == test]
