"""Each outcome of the XDP program has its oracle, its verdict test and its row for operators; a new one, too.

What is forwarded is compared with the packet that ``ebpf.oracle`` builds, what goes up with what came in, and what is
dropped with the core, which has to drop it under the same reason.
"""

import ast
import re
from typing import Final

import pytest

from ebpf import Outcome
from relay.core import DropReason
from tests.documented import ROOT

# Outcome: why no frame on the bench leads to it.
UNREACHABLE: Final = {
    Outcome.PUNT_TOO_LONG: "longer than any frame that the kernel takes for a test run",
    Outcome.PUNT_HEADROOM: "the bench, as every driver that loads the program, leaves room for the largest header",
    Outcome.DROP_REWRITE: "the verifier asks for it: the frame was longer a moment before",
}
# Where a frame meets the loaded program and what comes of it is told by outcome.
VERDICTS: Final = (
    "bpf/test_relay_verdicts.py",
    "bpf/test_relay_bandwidth.py",
    "bpf/test_relay_differential.py",
    "netns/test_xdp_offload.py",
)
# Where the same frame goes through the core, or is built anew by the oracle.
DIFFERENTIAL: Final = ("bpf/test_relay_differential.py", "bpf/test_relay_property.py")
# A frame that carries nobody's data, built by the self-test of an egress; the netns test reads its answer.
OF_OUR_OWN: Final = {Outcome.FORWARD_PROBE}


def named_in(*modules: str) -> set[str]:
    """The outcomes that code of these tests names."""
    trees = (ast.parse((ROOT / "tests" / module).read_text(encoding="utf-8")) for module in modules)
    return {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Outcome"
    }


def functions_naming(module: str, outcome: Outcome) -> list[str]:
    """The source of each top-level function or class of a test module that names the outcome."""
    text = (ROOT / "tests" / module).read_text(encoding="utf-8")
    found = [ast.get_source_segment(text, node) or "" for node in ast.parse(text).body if hasattr(node, "body")]
    return [source for source in found if re.search(rf"\bOutcome\.{outcome.name}\b", source)]


@pytest.mark.parametrize("outcome", Outcome, ids=lambda outcome: outcome.name)
def test_a_verdict_test_leads_to_it(outcome: Outcome) -> None:
    assert (outcome.name in named_in(*VERDICTS)) is not (outcome in UNREACHABLE), "a frame, or why there is none"


@pytest.mark.parametrize("outcome", [one for one in Outcome if one.is_forward], ids=lambda outcome: outcome.name)
def test_what_is_forwarded_is_read_by_the_oracle(outcome: Outcome) -> None:
    if outcome in OF_OUR_OWN or outcome.name in named_in(*DIFFERENTIAL):
        return
    sources = [source for module in VERDICTS for source in functions_naming(module, outcome)]
    assert any("read_packet(" in source for source in sources)


@pytest.mark.parametrize("outcome", [one for one in Outcome if one.is_drop], ids=lambda outcome: outcome.name)
def test_what_is_dropped_the_core_drops_for_the_same_reason(outcome: Outcome) -> None:
    if outcome in UNREACHABLE:
        return
    assert outcome.reason in {reason.value for reason in DropReason}
    assert outcome.name in named_in(*DIFFERENTIAL), "the same frames through the core"


@pytest.mark.parametrize("outcome", [one for one in Outcome if not one.is_forward], ids=lambda outcome: outcome.name)
def test_operators_read_what_it_means(outcome: Outcome) -> None:
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    section = text.partition("### What XDP forwards, and what it leaves")[2].partition("\n#")[0]
    table = "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    assert f"`{outcome.reason}`" in (section if outcome.is_drop else table)
