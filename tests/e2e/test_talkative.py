"""The running stack at the most talkative level: nothing is wrong, and no secret is told."""

import re

import pytest

from lab.plan import LabSettings, Nat, Underlay
from lab.stack import Stack
from lab.topology import Lab
from lab.transfer import download
from tests.e2e.stage import PARTS, Stage, traces

pytestmark = pytest.mark.root


def test_a_whole_life_at_the_most_talkative_level_tells_no_secret() -> None:
    with Lab(LabSettings(Nat.SYMMETRIC, Nat.SYMMETRIC, Underlay.IPV4)) as lab:
        stack = Stack(lab, log_filter="trace")
        stage = Stage(stack, {name: traces(lab.namespace(name)) for name in PARTS})
        stack.start()
        stage.connect()
        download(lab, 100_000)
        for name in reversed(PARTS):
            stage.end(name)
        texts = {name: stage.process(name).log_text() for name in PARTS}
    assert all(" DEBUG " in texts[name] for name in ("relay", "gateway", "client"))
    for name, text in texts.items():
        assert not re.search(r" (WARN|ERROR) |Traceback", text), name
        assert not any(secret in text for secret in stage.secrets()), name
        assert not _told_secrets(text), name


def _told_secrets(text: str) -> list[str]:
    """Values behind the names of secrets; what hides itself shows stars or nothing."""
    found = re.findall(r"(?i)((?:password|secret|preshared|private|token)\w*['\"]?[=:] *['\"]?[\w+/=-]{4,})", text)
    return [told for told in found if not told.endswith(("None", "True", "False"))]
