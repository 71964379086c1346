"""The chart's README and schema follow its values; what ``helm test`` runs tells good from bad."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Final

import pytest
import yaml

from charts import readme
from charts.postern.files import reachable

VALUES = (readme.CHART / "values.yaml").read_text(encoding="utf-8")
# Values that become a service's file.
FILES: Final = ("relay.standalone.config", "portal.config")


def test_the_readme_is_current() -> None:
    text = (readme.CHART / "README.md").read_text(encoding="utf-8")
    assert text == readme.render(text, VALUES), "run python charts/readme.py"


def test_a_value_without_a_comment_is_refused() -> None:
    assert readme.rows("# -- what\n# it is\na: {b: 1}\n") == [readme.Row("a", '{"b": 1}', "what it is")]
    with pytest.raises(ValueError, match=r"a\.c has no comment"):
        readme.rows("a:\n  # -- this\n  b: 1\n  c: 2\n")


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((readme.CHART / "values.schema.json").read_text(encoding="utf-8"))
    known = dict(_schema_paths(schema, schema["definitions"], ""))
    del known["global"]
    optional = {path for path in known if path.endswith(".initialDelaySeconds")}
    assert set(known) - optional == set(_value_paths(yaml.safe_load(VALUES), known, ""))


def test_the_chart_has_the_versions_of_the_distribution() -> None:
    chart = yaml.safe_load((readme.CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = (readme.CHART.parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{chart["appVersion"]}"\n' in project


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/good" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_http_wants_a_200(web: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert reachable.check(f"http://127.0.0.1:{web}/good")
    assert not reachable.check(f"http://127.0.0.1:{web}/bad")
    assert "status 503" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "good"),
    [("0101000c2112a442", True), ("0111000c2112a442", False), ("", False)],
    ids=["yes", "error", "no"],
)
def test_stun_wants_the_answer_to_its_request(answer: str, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachable, "SECONDS", 0.3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            request, source = server.recvfrom(100)
            if answer:
                server.sendto(bytes.fromhex(answer) + request[8:20], source)

        thread = threading.Thread(target=serve)
        thread.start()
        assert reachable.check(f"stun://127.0.0.1:{server.getsockname()[1]}") is good
        thread.join()


def test_a_name_that_leads_nowhere_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert not reachable.check("http://nobody.invalid:1/")
    assert "nobody is ready there" in capsys.readouterr().out


def _schema_paths(schema: dict[str, Any], definitions: dict[str, Any], prefix: str) -> Iterator[tuple[str, bool]]:
    """Each path that the schema names, and whether it is closed by names below it."""
    for name, part in schema["properties"].items():
        resolved = definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        if f"{prefix}{name}" in FILES:  # the service's own reader judges the rest
            yield f"{prefix}{name}", True
        elif "properties" in resolved and resolved.get("type") == "object":
            assert resolved["additionalProperties"] is False, f"{prefix}{name} is open"
            yield from _schema_paths(resolved, definitions, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", True


def _value_paths(values: dict[str, Any], known: dict[str, bool], prefix: str) -> Iterator[str]:
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and path not in known:
            yield from _value_paths(value, known, f"{path}.")
        else:
            yield path
