"""What the documents name exists: tests, modules, settings, metrics, links."""

import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path

import pytest

import client.command
import gateway.settings
import portal.command
import relay.settings
from client.drops import ClientDrop
from connectivity import wireguard
from connectivity.endpoint import Endpoint
from connectivity.fragment_table import FragmentDrop
from connectivity.io.udp_counters import UdpCounters
from connectivity.role import TunnelDrop
from connectivity.settings import HelpRequested
from connectivity.stun import ErrorCode
from gateway.reasons import GatewayDrop
from relay import config_file
from relay.core import DropReason
from relay.driver.metrics import Sources, collect
from relay.driver.offload import Offload
from relay.driver.streams import StreamCounters
from tests import documented
from tests.unit.relay.playbook import Client, RelayUnderTest, error_code

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
COUNTS = {"A": 17, "B": 15, "C": 13, "D": 8, "E": 6, "F": 5, "G": 6}
SERVICES: dict[str, Callable[[], object]] = {
    "relay": lambda: relay.settings.read_settings(["--help"]),
    "gateway": lambda: gateway.settings.read_settings(["--help"]),
    "client": lambda: client.command.read_settings(["--help"]),
    "portal": lambda: portal.command.run(["--help"]),
}


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Id, module, tests and state of each behaviour."""
    for line in (ROOT / "docs/behaviours.md").read_text(encoding="utf-8").splitlines():
        if re.match(r"\| [A-G]\d+ \|", line):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            assert len(cells) == 5, line
            yield cells[0], cells[2], cells[3], cells[4]


def test_every_behaviour_has_one_row_and_what_works_has_module_and_test() -> None:
    found = list(rows())
    assert [row[0] for row in found] == [
        f"{letter}{n}" for letter, count in COUNTS.items() for n in range(1, count + 1)
    ]
    for name, modules, tests, state in found:
        word = re.split(r"[:;,]", state)[0]
        assert word in {"works", "partial", "missing"}, name
        assert word != "partial" or ":" in state, f"{name} does not say what is missing"
        assert word == "missing" or ("`" in modules and "::" in tests), name
        for module in re.findall(r"`([\w.]+)`", modules):
            assert importlib.util.find_spec(module) is not None, f"{name}: {module}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tests_and_files_that_are_named_exist(document: Path) -> None:
    files = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
    text = document.read_text(encoding="utf-8")
    file = ""
    for stem, name in re.findall(r"`(…|test_\w+)(?:::(\w+))?`", text):
        file = file if stem == "…" else stem
        assert file in files, file
        assert not name or re.search(rf"^ *(async )?(def|class) {name}\b", files[file], re.MULTILINE), f"{file}::{name}"
    for module in re.findall(r"`((?:connectivity|relay|gateway|client|portal|ebpf)(?:\.[a-z_]\w*)+)`", text):
        assert importlib.util.find_spec(module) is not None, module
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", text):
        assert "://" in target or (document.parent / target).exists(), target


def test_every_documented_command_is_run_by_one_test_or_has_a_reason() -> None:
    found = {command for document in documented.DOCUMENTS for command in documented.commands(document)}
    assert set(documented.CLAIMS) & set(documented.NOT_RUN) == set()
    assert found == set(documented.CLAIMS) | set(documented.NOT_RUN)
    files = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    for command, claimant in documented.CLAIMS.items():
        file, _, name = claimant.partition("::")
        if claimant == ".ci/run":
            assert command in (ROOT / claimant).read_text(encoding="utf-8").splitlines(), command
        else:
            # It takes the command from the table, so it cannot run another one.
            assert re.search(rf"^def {name}\b", files[file], re.MULTILINE), claimant
            assert f'claimed("{claimant}")' in files[file], claimant


def test_every_code_block_has_a_language() -> None:
    """So that no command hides in one."""
    for document in documented.DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        fences = re.findall(r"^```(\w*)$", text, re.MULTILINE)
        assert all(fences[::2]), document.name
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        assert re.findall(r"^    \S.*", prose, re.MULTILINE) == [], document.name


def test_the_legend_of_the_trust_boundaries_says_what_the_text_says() -> None:
    text = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
    picture = (ROOT / "docs/trust-boundaries.svg").read_text(encoding="utf-8")
    crossings = re.findall(r"^(\d)\. \*\*(.+?)\.\*\*", text.partition("## Trust boundaries")[2], re.MULTILINE)
    assert re.findall(r'class="number"[^>]*>(\d)</text><text[^>]*>(.+?)</text>', picture) == crossings
    for colour in ("trusted", "partly", "hostile"):
        assert re.search(rf'<rect class="{colour}" [^>]*/><text [^>]*>.+</text>', picture), colour


def test_the_files_of_relays_in_the_guides_are_read() -> None:
    for name in ("README.md", "docs/webrtc-applications.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        (content,) = re.findall(r"^```yaml\n# relay.yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        assert config_file.parse(content, base=ROOT).realm, name


def test_the_ranges_of_firezones_compose_file_are_served_with_the_documented_setting() -> None:
    text = (ROOT / "docs/migrating-from-firezone.md").read_text(encoding="utf-8")
    (ranges,) = re.findall(r"^POSTERN_PEERS_ALLOW: (\S+)", text, re.MULTILINE)
    # A client and a gateway as that file has them: on the Internet side of their routers, and inside.
    for peer in ("203:0:113::102", "172:30::100", "172:31::100"):
        for allowed, code in (((), ErrorCode.FORBIDDEN), (tuple(ranges.split(",")), 0)):
            client = Client(RelayUnderTest(allow=allowed))
            client.allocate()
            assert error_code(client.bind(0x4000, Endpoint(ip_address(peer), 52625))) == code, peer


def test_every_setting_is_in_the_operators_page_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("FIREZONE_", "POSTERN_"))]:
        monkeypatch.delenv(name)
    declared = {"BCC_KERNEL_SOURCE"}  # read by the loader, as bcc names it
    for read in SERVICES.values():
        with pytest.raises(HelpRequested) as answer:
            read()
        declared |= set(re.findall(r"^  (?:--[\w-]+ or )?([A-Z][A-Z0-9_]+)", str(answer.value), re.MULTILINE))
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    settings = text.partition("## Settings")[2].partition("## Ports")[0]
    assert set(re.findall(r"`([A-Z][A-Z0-9_]+[A-Z0-9])`", settings)) == declared


@pytest.mark.parametrize(("heading", "reasons"), [("gateway", GatewayDrop), ("client", ClientDrop)])
def test_every_reason_for_a_drop_of_a_role_is_in_the_operators_page(heading: str, reasons: type[StrEnum]) -> None:
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    section = text.partition(f"### Names at a {heading}\n")[2]
    table = section[section.index("| reason in `flow_drops` |") :]
    assert [reason for reason in reasons if f"`{reason}`" not in table[: table.index("\n\n")]] == []


def test_every_reason_for_a_drop_of_a_tunnel_is_in_the_operators_page() -> None:
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    _, _, section = text.partition("### What client and gateway drop alike\n")
    flows, _, sessions = section.partition("## ")[0].partition("| reason in `drops` |")
    assert [reason for reason in (*TunnelDrop, *FragmentDrop) if f"`{reason}`" not in flows] == []
    assert [reason for reason in wireguard.DropReason if f"`{reason.value}`" not in sessions] == []


def test_every_reason_for_a_drop_is_documented_and_at_metrics_from_the_start() -> None:
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    table = text.partition("| `reason` of `postern.relay.drops`")[2].partition("\n\n")[0]
    reasons = {reason.value for reason in DropReason}
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == reasons
    sources = Sources(Offload(""), UdpCounters(), StreamCounters(), 0)
    (drops,) = [m for m in collect(RelayUnderTest().server.statistics(), sources) if m.name == "postern.relay.drops"]
    assert {labels["reason"] for labels, count in drops.rows if not count} == reasons
