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
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "charts/postern/README.md",
    *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "behaviours.md"),
)
PROGRAMS: Final = (
    "apt-get", "curl", "docker", "ethtool", "git", "helm", "ip", "kill", "kubectl", "make", "nft", "nstat", "openssl",
    "postern", "ss", "sysctl", "systemctl", "turnutils_uclient",
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
_CHECK: Final = "test_check::test_the_documented_commands"
_AT_THE_PORTAL: Final = "test_troubleshooting::test_commands_at_the_portal"
_ALONE: Final = "test_relay_standalone::test_the_documented_commands"
_ANYWHERE: Final = "test_troubleshooting::test_commands_for_anywhere"
_SITE: Final = "test_packages::test_the_site_of_the_document"
_FROM_COTURN: Final = "test_systemd::test_a_relay_takes_the_place_of_coturn"
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
        "bench faults",
        "bench relay",
        "bench siege",
        "bench stack",
        "bench tunnel",
    )
) | {"helm template", "helm test", "systemctl reload", "systemctl start", "systemctl status"}
# Command: the test that runs it, or .ci/run where that does.
CLAIMS: Final[dict[str, str]] = {
    "make check": _CI,
    "make demo": _CI,
    "make test-all": _CI,
    "apt-get install ./postern-common_*.deb ./postern-portal_*.deb nginx-light curl": _SITE,
    "install --directory --mode 0750 --group postern /etc/postern/tokens": _SITE,
    "openssl rand -base64 24 | tr '+/' '-_' >/etc/postern/tokens/relay": _SITE,
    "openssl rand -base64 24 | tr '+/' '-_' >/etc/postern/tokens/gateway": _SITE,
    "openssl rand -base64 24 | tr '+/' '-_' >/etc/postern/tokens/laptop": _SITE,
    "postern portal --check /etc/postern/portal.yaml": _SITE,
    "systemctl enable --now postern-portal": _SITE,
    "nginx -t": _SITE,
    "systemctl restart nginx": _SITE,
    "curl --silent --show-error --fail https://portal.example.org/healthz": _SITE,
    "apt-get install ./postern-common_*.deb ./postern-relay_*.deb curl": _SITE,
    "install --mode 0600 tokens/relay /etc/postern/relay.token": _SITE,
    "nft add rule inet filter input udp dport '{ 3478, 49152-65535 }' accept": _SITE,
    "systemctl enable --now postern-relay": _SITE,
    (
        "install -D --mode 0644 /usr/share/postern/postern-relay-offload.conf"
        " /etc/systemd/system/postern-relay.service.d/offload.conf"
    ): _SITE,
    "sysctl net.ipv4.ip_unprivileged_port_start=443": _SITE,
    "apt-get install ./postern-common_*.deb ./postern-gateway_*.deb curl": _SITE,
    "install --mode 0600 tokens/gateway /etc/postern/gateway.token": _SITE,
    "ip route get 172.20.0.100": _SITE,
    "systemctl enable --now postern-gateway": _SITE,
    "curl --silent --fail --retry 9 --retry-delay 1 --retry-connrefused http://127.0.0.1:8080/readyz": _SITE,
    "systemctl daemon-reload": _SITE,
    "apt-get install ./postern-common_*.deb ./postern-client_*.deb curl": _SITE,
    "install --mode 0600 tokens/laptop /etc/postern/client.token": _SITE,
    "systemctl enable --now postern-client": _SITE,
    "curl --silent --show-error --fail http://app.internal": _SITE,
    "openssl rand -base64 24 | tr '+/' '-_' >/etc/postern/tokens/laptop-2": _SITE,
    "systemctl reload postern-portal": _SITE,
    "openssl rand -base64 24 | tr '+/' '-_' >/etc/postern/tokens/gateway-2": _SITE,
    (
        "sed --in-place 's#token_file: tokens/gateway}#token_file: [tokens/gateway, tokens/gateway-2]}#'"
        " /etc/postern/portal.yaml"
    ): _SITE,
    "install --mode 0600 tokens/gateway-2 /etc/postern/gateway.token": _SITE,
    "sed --in-place 's#token_file: .*gateway-2]}#token_file: tokens/gateway-2}#' /etc/postern/portal.yaml": _SITE,
    "systemctl restart postern-gateway": _SITE,
    "apt-get install --reinstall ./postern-common_*.deb ./postern-gateway_*.deb": _SITE,
    "systemctl restart postern-relay": "test_systemd::test_xdp_takes_no_more_than_the_drop_in",
    "apt-get install ./postern-common_*.deb ./postern-relay_*.deb": _FROM_COTURN,
    "postern relay import-coturn /etc/turnserver.conf -o /etc/postern/relay.yaml": _FROM_COTURN,
    "chgrp postern /etc/postern/relay.yaml && chmod 640 /etc/postern/relay.yaml": _FROM_COTURN,
    (
        'install --group postern --mode 0640 "$RENEWED_LINEAGE/fullchain.pem" "$RENEWED_LINEAGE/privkey.pem"'
        " /etc/postern"
    ): _FROM_COTURN,
    "systemctl try-reload-or-restart postern-relay": _FROM_COTURN,
    "systemctl disable --now coturn": _FROM_COTURN,
    "ethtool --driver eth0": _AT_THE_RELAY,
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
    "postern portal status": _AT_THE_PORTAL,
    "postern portal log debug": _AT_THE_PORTAL,
    "nstat --zeros UdpRcvbufErrors UdpSndbufErrors Udp6RcvbufErrors Udp6SndbufErrors": _AT_THE_GATEWAY,
    "curl --silent http://127.0.0.1:9100/status": _AT_THE_CLIENT,
    "ip -details link show dev tun-firezone": _AT_THE_CLIENT,
    "ip route show table all dev tun-firezone": _AT_THE_CLIENT,
    "ip rule": _AT_THE_CLIENT,
    "postern client status": _AT_THE_CLIENT,
    "postern status": _AT_THE_CLIENT,
    "postern status --json": _AT_THE_CLIENT,
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
    "postern relay import-coturn turnserver.conf": "test_turn_import::test_the_imported_file_serves",
    "turnutils_uclient -y -u test -W current-of-16-characters turn.example.org": (
        "test_turn_import::test_the_documented_check"
    ),
    "postern completion bash": "test_help::test_the_documented_completion",
    "postern man build/man": "test_help::test_the_documented_pages",
    "postern doctor": _ANYWHERE,
    "postern doctor --json": _ANYWHERE,
    "postern doctor --bundle report.tar.gz": "test_doctor_bundle::test_the_documented_command",
    "postern doctor relay": _ANYWHERE,
    "postern doctor gateway": _ANYWHERE,
    "postern doctor client": _ANYWHERE,
    "postern relay --help": _ANYWHERE,
    "postern portal --config portal.yaml": _ANYWHERE,
    "postern portal --check portal.yaml": _CHECK,
    "postern relay --check relay.yaml": _CHECK,
    "openssl rand -base64 24 | tr '+/' '-_'": _ANYWHERE,
}
# Command: why no test can run it.
NOT_RUN: Final[dict[str, str]] = {
    "make test": "make test-all, which .ci/run runs, has the same tests",
    "make test-kernels": "make test-all, which .ci/run runs, has the same tests",
    "make test-long": "make test-all, which .ci/run runs, has the same tests",
    **dict.fromkeys(
        ("make bench-relay", "make bench-tunnel", "make bench-siege", "make perf"),
        "minutes alone; the same with flags is listed below with the test that has a short form",
    ),
    "make fuzz": "make test does the same for seconds, and atheris exists for few machines",
    "make lock": "it asks the package index what is newest",
    "postern version": "test_cli prints it; here it is said what to tell",
    "postern doctor --bundle FILE": "a file's name in its place: test_doctor_bundle",
    "apt-get install python3-bpfcc linux-headers-amd64 ethtool": "lab/setup.sh installs the same",
    **dict.fromkeys(
        (
            "debootstrap --variant=minbase bookworm base",
            "tar --directory base --create . | docker import - local/debian:12",
            "docker build --file compose/Dockerfile --build-arg BASE=local/debian:12 --target relay .",
        ),
        "test_compose makes its base and its images so where no registry is reachable",
    ),
    "make setup": "every other target begins with it",
    "make packages": "test_packages builds them by the same script",
    "make wheel": "test_wheel builds it by the same script",
    "make soak": "it does not end; the property test of the simulated world runs the same cases by number",
    **dict.fromkeys(
        (
            "python3 -m venv --system-site-packages /opt/postern && /opt/postern/bin/pip install .",
            "install -D --mode 0644 dist/postern.sysusers /etc/sysusers.d/postern.conf && systemd-sysusers",
            "install -D --mode 0644 dist/postern.tmpfiles /etc/tmpfiles.d/postern.conf",
            "install -D --mode 0644 dist/*.service --target-directory /etc/systemd/system && systemctl daemon-reload",
            (
                "install -D --mode 0644 dist/postern-relay-offload.conf"
                " /etc/systemd/system/postern-relay.service.d/offload.conf"
            ),
        ),
        "changes the host; the units themselves are tested by test_service_units",
    ),
    _COMPOSE + "--profile observe up --detach --build": (
        "pulls Prometheus and Grafana; test_observe looks at the profile, and at what it would show"
    ),
    "git clone ADDRESS": "the address is of whoever publishes this copy; the tests run in one",
    "git pull": "what it fetches is not this version's to test",
    "export GATEWAY_IMAGE=$REGISTRY/gateway:1.4.17 CLIENT_IMAGE=$REGISTRY/client:1.5.4": (
        "needs a registry; test_upstream_takes_the_place_of_client_and_gateway does it with images of its own"
    ),
    "unset GATEWAY_IMAGE CLIENT_IMAGE": "undoes the former in a shell",
    'make bench-tunnel ARGS="--docs docs --peers-2026 DIRECTORY"': (
        "ten minutes alone, and upstream's programs; test_bench_tunnel has a short form"
    ),
    'make perf ARGS="--rounds 3 --docs docs --peers DIRECTORY"': (
        "many minutes alone, and upstream's programs; test_bench_documents has what it writes"
    ),
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
        yield from commands_of(block)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", prose):
        if re.match(rf"({'|'.join(PROGRAMS)}) \S", code) and code not in _NAMES:
            yield code


def commands_of(block: str) -> Iterator[str]:
    """The commands of one block."""
    for line in block.splitlines():
        if command := re.sub(r"\s+#.*", "", line).strip():
            yield command


def claimed(test: str) -> list[str]:
    """The commands that a test has to run, in the order of the table."""
    return [command for command, claimant in CLAIMS.items() if claimant == test]
