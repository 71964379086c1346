"""The chart through real Helm: each file of ``charts/postern/ci`` linted, rendered, and compared with a snapshot.

What is rendered must also be what the services accept: their own readers get the environment and the file that the pods
would see. ``POSTERN_TEST_WRITE=1`` writes the snapshots anew.
"""

import base64
import os
import re
from pathlib import Path
from typing import Final

import pytest

from charts.readme import CHART
from gateway import settings as gateway
from portal import config_file
from tests.e2e.chart_rendering import (
    DOWNWARD,
    KUBERNETES,
    Helm,
    Object,
    environment,
    part,
    pod_spec,
    relay_settings,
    standalone_settings,
    values_of,
    workloads,
)

pytestmark = pytest.mark.helm

SNAPSHOTS: Final = Path(__file__).with_name("chart")
CASES: Final = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
_MADE_UP: Final = re.compile(r"(?m)(?:(?<=kept since\.\n  token: )|(?<=kept since\.\n  secret: ))\S{56}$")


@pytest.fixture(scope="module")
def helm(helm_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(helm_program, tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("case", CASES)
def test_lint_finds_nothing(helm: Helm, case: str) -> None:
    done = helm.run("lint", "--strict", str(CHART), *values_of(case), *KUBERNETES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if "WARN" in line or "ERROR" in line] == []


@pytest.mark.parametrize("case", CASES)
def test_rendered_as_committed(helm: Helm, case: str) -> None:
    rendered = _MADE_UP.sub("(made up)", helm.render(case))
    snapshot = SNAPSHOTS / f"{case}.yaml"
    if os.environ.get("POSTERN_TEST_WRITE"):
        snapshot.write_text(rendered, encoding="utf-8")
    assert rendered == snapshot.read_text(encoding="utf-8")


def test_there_is_no_snapshot_of_nothing() -> None:
    assert sorted(path.stem for path in SNAPSHOTS.glob("*.yaml")) == CASES


@pytest.mark.parametrize("case", CASES)
def test_no_object_occurs_twice_and_each_says_whose_it_is(helm: Helm, case: str) -> None:
    objects = helm.objects(case)
    names = [(found["kind"], found["metadata"]["name"]) for found in objects]
    assert len(set(names)) == len(names)
    for found in objects:
        assert found["metadata"]["labels"]["app.kubernetes.io/instance"] == "postern"
    for kind in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
        assert kind not in {found["kind"] for found in objects}


@pytest.mark.parametrize("case", CASES)
def test_no_pod_has_more_than_it_needs(helm: Helm, case: str) -> None:
    for found in workloads(helm.objects(case)):
        spec = pod_spec(found)
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"]["drop"] == ["ALL"]
            assert "privileged" not in context


def test_only_an_offload_and_a_low_port_need_capabilities(helm: Helm) -> None:
    def context(*arguments: str) -> Object:
        found = part(helm.objects("minimal", *arguments), "relay")
        return dict(pod_spec(found)["containers"][0]["securityContext"])

    interfaces = ("--set", "relay.offload.interfaces={eth0}")
    assert "add" not in context()["capabilities"]
    assert context()["runAsNonRoot"] is True
    assert {"BPF", "PERFMON", "NET_ADMIN"} < set(context(*interfaces)["capabilities"]["add"])
    assert "add" not in context(*interfaces, "--set", "relay.offload.mode=off")["capabilities"]
    low_port = context("--set", "relay.listenPort=443")
    assert low_port["capabilities"]["add"] == ["NET_BIND_SERVICE", "SETUID", "SETGID"]


@pytest.mark.parametrize("case", CASES)
def test_a_relay_has_longer_than_its_drain_and_never_meets_its_successor(helm: Helm, case: str) -> None:
    for found in workloads(helm.objects(case)):
        if found["metadata"]["labels"]["app.kubernetes.io/component"] != "relay":
            continue
        strategy = found["spec"].get("strategy") or found["spec"]["updateStrategy"]
        assert strategy["rollingUpdate"]["maxSurge"] == 0
        drain_seconds = int(environment(found, "")["POSTERN_DRAIN_SECONDS"])
        assert pod_spec(found)["terminationGracePeriodSeconds"] > drain_seconds


@pytest.mark.parametrize("case", CASES)
def test_each_service_accepts_what_it_is_given(helm: Helm, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for found in workloads(helm.objects(case)):
        match found["metadata"]["labels"]["app.kubernetes.io/component"]:
            case "relay":
                if "POSTERN_RELAY_CONFIG" not in environment(found, ""):  # else below
                    assert relay_settings(found, "192.0.2.1,2001:db8::1").public
            case "gateway":
                env = environment(found, "")
                for name in os.environ:
                    monkeypatch.delenv(name, raising=False)
                for name, value in env.items():
                    monkeypatch.setenv(name, value)
                assert gateway.read_settings([]).tunnel.device_id == DOWNWARD["metadata.uid"]
                monkeypatch.undo()
            case component:
                assert component == "portal"


def test_a_relay_is_told_its_settings(helm: Helm) -> None:
    settings = relay_settings(part(helm.objects("everything"), "relay"), "10.0.0.5,fd00::5")
    assert {version: str(ip) for version, ip in settings.public.items()} == {4: "203.0.113.101", 6: "fd00::5"}
    served = settings.configuration
    assert [str(address) for address in served.listen] == ["0.0.0.0:3479", "[::]:3479"]
    assert (served.lowest_port, served.highest_port) == (50_000, 59_999)
    assert served.offload is not None
    assert (served.offload.interfaces, served.offload.mode) == (("eth0", "eth1"), "generic")
    assert served.offload.generic_from_peer
    assert [str(ip) for ip in served.internal] == ["10.0.0.5", "fd00::5"]
    assert [str(rule) for rule in served.peers_allow] == ["10.0.0.0/8", "fd00::/8"]
    assert [str(rule) for rule in served.peers_deny] == ["10.96.0.0/16"]
    assert (settings.drain_seconds, settings.log_filter) == (600, "info,relay=debug")
    ipv6 = relay_settings(part(helm.objects("ipv6"), "relay"), "2001:db8::1")
    assert (str(ipv6.health_address), set(ipv6.public)) == ("[::]:8080", {6})


def test_a_stand_alone_relay_is_told_its_file(helm: Helm, tmp_path: Path) -> None:
    settings = standalone_settings(helm.objects("standalone-everything"), "", tmp_path)
    served = settings.configuration
    assert {version: str(ip) for version, ip in settings.public.items()} == {4: "203.0.113.5", 6: "2001:db8::5"}
    assert [str(address) for address in served.listen] == ["0.0.0.0:3479", "[::]:3479"]
    assert [str(address) for address in served.tls_listen] == ["0.0.0.0:443", "[::]:443"]
    assert served.certificate is not None
    assert (served.lowest_port, served.highest_port) == (50_000, 59_999)
    assert served.offload is not None
    assert (served.offload.interfaces, served.offload.mode) == (("eth0",), "generic")
    assert [str(ip) for ip in served.internal] == ["10.0.0.5"]
    assert [str(rule) for rule in served.peers_allow] == ["10.20.0.0/16", "10.30.0.0/16:5000-5999", "[fd00::/8]:443"]
    assert [str(rule) for rule in served.peers_deny] == ["10.20.1.0/24"]
    assert (served.quotas.bandwidth_per_user, len(served.rest_secrets)) == (10_000_000, 2)
    assert {version: str(one) for version, one in served.alternate.items()} == {4: "203.0.113.6:3478"}
    # With the least that must be said, it has the addresses of each node.
    settings = standalone_settings(helm.objects("standalone"), "192.0.2.1,2001:db8::1", tmp_path)
    assert {version: str(ip) for version, ip in settings.public.items()} == {4: "192.0.2.1", 6: "2001:db8::1"}
    assert settings.configuration.users == {"alice": "a-password-of-alice"}
    only4 = helm.objects(
        "standalone", "--set", "relay.publicAddress.fromNode=false,relay.publicAddress.ipv4=203.0.113.5"
    )
    assert [str(one) for one in standalone_settings(only4, "", tmp_path).configuration.listen] == ["0.0.0.0:3478"]


def test_a_stand_alone_relay_needs_nothing_of_a_portal(helm: Helm) -> None:
    for case in ("standalone", "standalone-everything", "standalone-secret"):
        objects = helm.objects(case)
        found = part(objects, "relay")
        assert not [name for name in environment(found, "") if name.startswith("FIREZONE_")]
        components = {one["metadata"]["labels"]["app.kubernetes.io/component"] for one in objects}
        assert components == {"relay", "test"}
        secrets = [one for one in objects if one["kind"] == "Secret"]
        assert [list(one["stringData"]) for one in secrets] == ([] if case == "standalone-secret" else [["relay.yaml"]])


def test_a_change_of_the_file_starts_a_stand_alone_relay_anew(helm: Helm) -> None:
    def checksum(*arguments: str) -> str:
        found = part(helm.objects("standalone", *arguments), "relay")
        return str(found["spec"]["template"]["metadata"]["annotations"]["checksum/secrets"])

    assert checksum() == checksum()
    for change in (
        "relay.standalone.config.users.bob=another",
        "relay.highestPort=60000",
        "relay.peers.deny={9.9.9.9/32}",
    ):
        assert checksum() != checksum("--set", change)


@pytest.mark.parametrize("case", ["minimal", "everything", "ipv6"])
def test_the_portal_lets_in_whom_the_release_starts(helm: Helm, case: str, tmp_path: Path) -> None:
    objects = helm.objects(case)
    secrets = {found["metadata"]["name"]: found for found in objects if found["kind"] == "Secret"}
    prefix = next(name for name in secrets if name.endswith("-portal")).removesuffix("-portal")
    tokens: dict[str, str] = {}
    for name in ("relay", "gateway"):
        tokens[name] = base64.b64decode(secrets[f"{prefix}-{name}"]["data"]["token"]).decode()
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(tokens[name])
    content = secrets[f"{prefix}-portal"]["stringData"]["portal.yaml"].replace("/etc/postern/", f"{tmp_path}/")
    configuration = config_file.parse(content, base=tmp_path)
    accepted = {(token.type.value, text) for token in configuration.tokens for text in token.texts}
    assert set(tokens.items()) <= accepted
    assert configuration.listen.port == 8081


def test_tokens_are_made_up_anew_and_are_long(helm: Helm) -> None:
    found = [
        _MADE_UP.findall(helm.render("minimal", "--show-only", "templates/tokens.yaml"))  # two in each
        for _ in range(2)
    ]
    assert len({*found[0], *found[1]}) == 4


def test_what_pods_mount_changes_them(helm: Helm) -> None:
    def checksums(*arguments: str) -> list[str]:
        found = workloads(helm.objects("minimal", *arguments))
        return [one["spec"]["template"]["metadata"]["annotations"]["checksum/secrets"] for one in found]

    assert checksums() == checksums()
    assert checksums() != checksums("--set", "portal.config.secret=sixteen-characters")
    assert checksums() != checksums("--set", "relay.token.value=another")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ("relay.drainSeconds=never", "at '/relay/drainSeconds': got string, want integer"),
        ("relay.drainSeconds=-1", "at '/relay/drainSeconds': minimum: got -1, want 0"),
        ("relay.offload.mode=xdp", "at '/relay/offload/mode': value must be one of 'auto', 'native', 'generic', 'off'"),
        ("relay.ofload.mode=off", "at '/relay': additional properties 'ofload' not allowed"),
        ("relay.listenPort=70000", "at '/relay/listenPort': maximum: got 70,000, want 65,535"),
        ("relay.peers.allow={10.0.0.0}", "at '/relay/peers/allow/0': '10.0.0.0' does not match pattern"),
        ("relay.peers.deny={fd00::/8:53}", "at '/relay/peers/deny/0': 'fd00::/8:53' does not match pattern"),
        ("relay.standalone.enabled=yes", "at '/relay/standalone/enabled': got string, want boolean"),
        ("relay.standalone.config=relay.yaml", "at '/relay/standalone/config': got string, want object"),
        ("relay.standalone.config.realm=2026", "at '/relay/standalone/config/realm': got number, want null or string"),
        (
            "relay.standalone.config.users.alice=123456789",
            "at '/relay/standalone/config/users/alice': got number, want string",
        ),
        (
            "relay.standalone.config.users.alice=null",
            "at '/relay/standalone/config/users/alice': got null, want string",
        ),
        ("relay.standalone.config.users.alice=", "at '/relay/standalone/config/users/alice': minLength: got 0, want 1"),
        (
            "relay.standalone.config.users=alice:secret",
            "at '/relay/standalone/config/users': 'alice:secret' does not match",
        ),
        (
            "relay.standalone.config.rest_secrets={12345678901234567}",
            "at '/relay/standalone/config/rest_secrets/0': got number, want string",
        ),
        ("portal.config.tokens[0].token=123456789", "at '/portal/config/tokens/0/token': got number, want string"),
        ("portal.config.policies[0].groups={7}", "at '/portal/config/policies/0/groups/0': got number, want string"),
        ("relay.standalone.tlsPort=0", "at '/relay/standalone/tlsPort': minimum: got 0, want 1"),
        ("relay.standalone.secret=x", "at '/relay/standalone': additional properties 'secret' not allowed"),
        ("relay.publicAddress.ipv4=2001:db8::1", "at '/relay/publicAddress/ipv4': '2001:db8::1' does not match"),
        ("relay.maxUnavailable=0", "at '/relay/maxUnavailable'"),
        ("relay.kind=StatefulSet", "at '/relay/kind': value must be one of 'DaemonSet', 'Deployment'"),
        ("gateway.replicas=many", "at '/gateway/replicas': got string, want integer"),
        ("gateway.tunDevice=/dev/tun", "at '/gateway/tunDevice': value must be one of 'hostPath', 'none'"),
        ("portalUrl=https://api.example", "at '/portalUrl': 'https://api.example' does not match pattern"),
        ("portal.image.digest=latest", "at '/portal/image/digest': 'latest' does not match pattern"),
        ("portal.enabled=perhaps", "at '/portal/enabled': got string, want boolean"),
        ("bindAddress=eth0", "at '/bindAddress': value must be one of '0.0.0.0', '::'"),
        ("extra=1", "at '': additional properties 'extra' not allowed"),
    ],
)
def test_the_schema_refuses_in_words(helm: Helm, settings: str, complaint: str) -> None:
    assert complaint in helm.refusal("minimal", "--set", settings)


@pytest.mark.parametrize(
    ("case", "settings", "complaint"),
    [
        ("minimal", "relay.enabled=false,gateway.enabled=false,portal.enabled=false", "nothing to install"),
        ("minimal", "portal.enabled=false", "portalUrl is not set: expected the URL of a portal"),
        ("minimal", "portalUrl=wss://api.example", "portalUrl and portal.enabled are both set"),
        ("minimal", "portal.existingSecret=file", "relay.token is not set: expected relay.token.value or"),
        ("relay-only", "relay.token.value=", "relay.token is not set: expected relay.token.value or"),
        ("existing-secrets", "gateway.token.value=x", "gateway.token.value and gateway.token.existingSecret are both"),
        ("minimal", "relay.publicAddress.fromNode=false", "relay.publicAddress is empty"),
        ("minimal", "relay.highestPort=49151", "relay.lowestPort is 49152: expected at most relay.highestPort"),
        ("relay-only", "relay.lowestPort=30000", "relay.lowestPort is 30000: expected at least 32768"),
        ("minimal", "relay.terminationGracePeriodSeconds=60", "expected more than relay.drainSeconds, which is 60"),
        ("minimal", "gateway.maxSurge=0", "no update could begin"),
        ("minimal", "gateway.site=hq", 'gateway.site is "hq": expected one of portal.config.sites (default)'),
        ("minimal", "portal.ingress.enabled=true", "portal.ingress.host is not set"),
        ("minimal", "portal.config.listen=x", "portal.config.listen is set: expected bindAddress"),
        ("minimal", "relay.standalone.enabled=true", "expected portal.enabled=false, gateway.enabled=false"),
        ("minimal", "relay.standalone.config.realm=x", "expected relay.enabled=true and relay.standalone.enabled=true"),
        ("standalone", "gateway.enabled=true", "expected portal.enabled=false, gateway.enabled=false and no portalUrl"),
        ("standalone", "portalUrl=wss://api.example", "expected portal.enabled=false, gateway.enabled=false and no"),
        ("standalone", "relay.token.value=x", "relay.token is set with relay.standalone.enabled: expected none"),
        (
            "standalone",
            "relay.standalone.existingSecret=file",
            "config and relay.standalone.existingSecret are both set",
        ),
        (
            "standalone-secret",
            "relay.peers.allow={10.0.0.0/8}",
            "relay.peers is set with relay.standalone.existingSecret",
        ),
        ("standalone", "relay.standalone.config.realm=", "relay.standalone.config.realm is not set: expected a name"),
        (
            "standalone",
            "relay.standalone.config.users=null",
            "has neither users nor rest_secrets: expected one of them",
        ),
        ("standalone", "relay.standalone.config.listen=x", "config.listen is set: expected relay.listenPort instead"),
        (
            "standalone",
            "relay.standalone.config.tls=x",
            "config.tls is set: expected relay.standalone.tlsSecret instead",
        ),
        (
            "standalone",
            "relay.standalone.config.user=x",
            "config.user is not known: expected realm, users, rest_secrets",
        ),
        ("standalone-secret", "relay.standalone.tlsPort=3478", "tlsPort is 3478: expected another port than"),
        ("standalone", "relay.publicAddress.fromNode=false", "relay.publicAddress is empty"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_words(helm: Helm, case: str, settings: str, complaint: str) -> None:
    assert complaint in helm.refusal(case, "--set", settings)
