"""The chart and a real API server: every object is valid; an upgrade keeps what it must, an uninstall leaves nothing.

There is no node, so nothing starts.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts.readme import CHART
from tests.documented import claimed
from tests.e2e.kube_api import Cluster, api_server
from tests.netns.plain_pair import namespaces

pytestmark = [pytest.mark.root, pytest.mark.kube]

SNAPSHOTS = sorted(Path(__file__).with_name("chart").glob("*.yaml"))
# Of the Prometheus operator, which is not part of Kubernetes.
FOREIGN = frozenset({"PodMonitor", "ServiceMonitor"})
PLACE = ("--namespace", "installed")
KINDS = "daemonsets,deployments,services,secrets,serviceaccounts,networkpolicies,poddisruptionbudgets,ingresses,pods"


@pytest.fixture(scope="module")
def cluster(kube_program: Path, helm_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with namespaces() as names, api_server(names[0], tmp_path_factory.mktemp("kube"), kube_program, helm_program) as up:
        yield up


@pytest.mark.parametrize("snapshot", SNAPSHOTS, ids=[path.stem for path in SNAPSHOTS])
def test_every_object_is_valid(cluster: Cluster, snapshot: Path) -> None:
    objects = [one for one in yaml.safe_load_all(snapshot.read_text()) if one and one["kind"] not in FOREIGN]
    # A token that was made up is not in the snapshot.
    text = yaml.safe_dump_all(objects).replace("(made up)", "bWFkZSB1cA==")
    said = cluster.run("kubectl", "apply", "--dry-run=server", "--validate=strict", "-f", "-", text=text)
    assert said.count("(server dry run)") == len(objects)


def test_an_invalid_object_would_be_noticed(cluster: Cluster) -> None:
    text = (Path(__file__).with_name("chart") / "relay-only.yaml").read_text().replace("maxSurge: 0", "maxSurge: -1")
    done = cluster.attempt("kubectl", "apply", "--dry-run=server", "--validate=strict", "-f", "-", text=text)
    assert done.returncode != 0
    assert "maxSurge" in done.stderr


def test_an_upgrade_keeps_the_tokens_and_an_uninstall_leaves_nothing(cluster: Cluster) -> None:
    said = cluster.run("helm", "install", "postern", str(CHART), *PLACE, "--create-namespace")
    assert "helm test postern" in said
    assert "Nothing is allowed yet" in said
    tokens = {part: token(cluster, part) for part in ("relay", "gateway")}
    assert len(set(tokens.values())) == 2
    first = pod_template(cluster)

    cluster.run("helm", "upgrade", "postern", str(CHART), *PLACE)
    assert {part: token(cluster, part) for part in tokens} == tokens
    assert pod_template(cluster) == first  # nothing changed, so no relay is restarted
    cluster.run("helm", "upgrade", "postern", str(CHART), *PLACE, "--set-string", "relay.image.tag=2")
    assert pod_template(cluster) != first
    assert {part: token(cluster, part) for part in tokens} == tokens

    cluster.run("helm", "uninstall", "postern", *PLACE, "--wait")
    assert existing(cluster) == []


def test_the_documented_install(cluster: Cluster, tmp_path: Path) -> None:
    """With the values of the chart's README."""
    (values,) = re.findall(r"```yaml\n# my-values.yaml(.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    (tmp_path / "my-values.yaml").write_text(f"#{values}")
    actual = {"charts/postern": str(CHART), "my-values.yaml": str(tmp_path / "my-values.yaml")}
    install, uninstall = claimed("test_chart_api::test_the_documented_install")
    cluster.run(*[actual.get(word, word) for word in install.split()], *PLACE, "--create-namespace")
    assert "daemonset.apps/postern-relay" in existing(cluster)
    cluster.run(*uninstall.split(), *PLACE, "--wait")


def test_a_turn_server_says_its_urls(cluster: Cluster) -> None:
    """Notes are in no snapshot; nothing is installed."""
    values = ("--values", str(CHART / "ci/standalone-everything-values.yaml"))
    said = cluster.run("helm", "install", "postern", str(CHART), *values, *PLACE, "--dry-run=client")
    notes = said.partition("NOTES:")[2].split()
    assert [word for word in notes if word.startswith(("turn:", "turns:"))] == [
        "turn:203.0.113.5:3479",
        "turn:203.0.113.5:3479?transport=tcp",
        "turns:203.0.113.5:443?transport=tcp",
    ]


def existing(cluster: Cluster) -> list[str]:
    return sorted(cluster.run("kubectl", "get", KINDS, *PLACE, "--output=name").split())


def token(cluster: Cluster, part: str) -> str:
    found = json.loads(cluster.run("kubectl", "get", "secret", f"postern-{part}", *PLACE, "--output=json"))
    return str(found["data"]["token"])


def pod_template(cluster: Cluster) -> Any:
    found = cluster.run("kubectl", "get", "daemonset", "postern-relay", *PLACE, "--output=json")
    return json.loads(found)["spec"]["template"]
