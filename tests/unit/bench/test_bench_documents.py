"""Figures reach documents from a quiet machine and a run that did not fail, and pictures say what the tables say."""

import contextlib
import dataclasses
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from bench import documents, stack, tunnel
from bench.documents import Place
from bench.history import Run, heading
from bench.measurement import DIRECTIONS, Measurement, Stage
from bench.picture import draw
from bench.report import as_document, as_markdown
from bench.results import Cell, matrix
from connectivity.errors import FatalError
from lab.measure import Flow, Load
from tests.unit.bench.bench_samples import DIRECT, UPSTREAM_DIRECT, VETH, both, sample_run

DOCS = Path(__file__).resolve().parents[3] / "docs"
MARKS = "<!-- figures of bench {} -->\nold\n<!-- end of figures -->\n"
DOCUMENT = f"# P\n\n{MARKS.format('tunnel')}\nmore\n{MARKS.format('stack')}"
TUNNEL, STACK = Place("tunnel", "tunnel.svg"), Place("stack", "performance.svg")
TEXT, RECT = "{http://www.w3.org/2000/svg}text", "{http://www.w3.org/2000/svg}rect"
WIDEST_TABLE = 110
WAYS = {"up ↑": 0, "down ↓": 1}
LABEL = re.compile(r"([\d.]+) % · ([\d,]+) Mbit/s(?:(, upstream's)| · ([\d.]+) times upstream's)?")

Drawn = tuple[str, int, str, float]  # group, direction, label and length of a bar


@pytest.fixture(autouse=True)
def _nothing_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSTERN_TEST_PEERS", raising=False)
    for command in (stack, tunnel):
        for name in ("check_machine", "leave_in_order"):
            monkeypatch.setattr(command, name, lambda *_: None)


def test_a_document_gets_its_figures_between_its_marks_and_nothing_else_changes() -> None:
    written = TUNNEL.put_between(DOCUMENT, "\nnew\n")
    assert written == DOCUMENT.replace("old\n", "\nnew\n\n", 1)
    assert TUNNEL.put_between(written, "new") == written
    assert (TUNNEL.figures(written), STACK.figures(written)) == ("new", "old")
    with pytest.raises(FatalError, match="figures of bench tunnel"):
        TUNNEL.put_between("# P\n", "new")


@pytest.mark.parametrize("command", [stack, tunnel], ids=["stack", "tunnel"])
def test_no_figures_of_a_busy_machine_are_written_into_documents(
    command: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / documents.DOCUMENT).write_text(DOCUMENT)
    monkeypatch.setattr(documents, "busy_share", lambda: 0.11)
    monkeypatch.setattr(command, "_measure", never)
    with pytest.raises(FatalError, match="others use 11% of the processors, more than 10%"):
        command.run(["--docs", str(tmp_path)])
    assert (tmp_path / documents.DOCUMENT).read_text() == DOCUMENT


def test_a_busy_machine_is_worth_a_warning_where_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(documents, "busy_share", lambda: 0.5)
    assert TUNNEL.look_around(None) == 0.5
    assert capsys.readouterr().err == "warning: others use 50% of the processors, more than 10%\n"


@pytest.mark.parametrize("command", [stack, tunnel], ids=["stack", "tunnel"])
def test_documents_without_a_place_for_figures_are_told_before_anything_is_measured(
    command: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(documents, "busy_share", never)
    with pytest.raises(FatalError, match=r"performance\.md: No such file"):
        command.run(["--docs", str(tmp_path)])
    (tmp_path / documents.DOCUMENT).write_text("# Performance\n")
    with pytest.raises(FatalError, match="the document has no <!-- figures of bench"):
        command.run(["--docs", str(tmp_path)])


def test_a_run_is_written_with_its_picture_and_says_how_quiet_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run_stack(monkeypatch, tmp_path, []) == 0
    figures = STACK.figures((tmp_path / documents.DOCUMENT).read_text())
    assert figures.splitlines()[0].endswith("median of 1 · quiet machine")
    check_stack((tmp_path / STACK.picture).read_text(), figures)


def test_a_failed_run_stays_out_of_documents(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="UdpInErrors"):
        run_stack(monkeypatch, tmp_path, ["direct, our ends: gateway: UdpInErrors 3"])
    assert (tmp_path / documents.DOCUMENT).read_text() == DOCUMENT
    assert not (tmp_path / STACK.picture).exists()


def test_a_heading_says_what_is_known_of_a_run() -> None:
    run = dataclasses.replace(sample_run(), machine={"processors": 2, "busy_before": 0.25})
    assert heading(run) == (
        "2026-03-01 04:05 UTC · abc1234 · 2 processors · median of 1 · busy machine (others used 25% before)"
    )
    assert heading(Run("2026-03-01T04:05:06+00:00", "", [])) == "2026-03-01 04:05 UTC"


def test_picture_and_tables_of_the_same_cells_say_the_same() -> None:
    with_upstream = [*sample_run().cells, *both(UPSTREAM_DIRECT, 777, 1234)]
    for cells in (sample_run().cells, with_upstream, everything()):
        run = dataclasses.replace(sample_run(), cells=cells)
        for tables in (as_document(cells), as_markdown(cells)):
            check_stack(draw([run]), f"{heading(run)}\n\n{tables}")


@pytest.mark.parametrize(
    "name", ["plain veth IPv4", "direct IPv4, ours", "direct IPv4, upstream's", "direct IPv4: ours / upstream's"]
)
def test_a_table_that_says_something_else_is_noticed(name: str) -> None:
    run = dataclasses.replace(sample_run(), cells=[*sample_run().cells, *both(UPSTREAM_DIRECT, 777, 1234)])
    tables = f"{heading(run)}\n\n{as_document(run.cells)}"
    row = next(line for line in tables.splitlines() if line.startswith(f"| {name} "))
    told = re.findall(r"[|·] +([\d.,]+)", row.removesuffix(" 0 · 0 |"))
    assert len(told) in {2, 4}
    for number in told:
        head, tail = row[: len(name) + 2], row[len(name) + 2 :]
        wrong = tables.replace(row, head + tail.replace(number, "7.77", 1))
        with pytest.raises(AssertionError):
            check_stack(draw([run]), wrong)


def test_tables_fit_a_page_however_large_their_numbers() -> None:
    for text in (as_document(everything()), as_markdown(everything())):
        assert max(map(len, text.splitlines())) <= WIDEST_TABLE


def test_the_document_and_its_picture_of_the_stack_say_the_same() -> None:
    figures = STACK.figures((DOCS / documents.DOCUMENT).read_text(encoding="utf-8"))
    check_stack((DOCS / STACK.picture).read_text(encoding="utf-8"), figures)


def test_the_document_and_its_picture_of_the_tunnel_say_the_same() -> None:
    figures = TUNNEL.figures((DOCS / documents.DOCUMENT).read_text(encoding="utf-8"))
    bars, (_, told, *_) = labels((DOCS / TUNNEL.picture).read_text(encoding="utf-8"))
    assert told in figures.splitlines()
    rows = rows_of(figures)
    columns = rows[""]
    for group, way, label, _ in bars:
        column = columns.index(re.sub(r"(\w+), (\d+)(?: streams?)?", r"\1 \2", group))
        value, _, name = label.partition(" ")
        assert rows[name][column].split(" · ")[way] == value, label


def check_stack(picture: str, figures: str) -> None:
    """Every number at the bars and above them stands in the tables, at its place; and bars are as long as they say."""
    bars, (title, told, unit, *axis) = labels(picture)
    rows = rows_of(figures)
    assert title.endswith("percent of plain veth")
    assert told in figures.splitlines()
    plain = {f"plain veth {family}": pair for family, pair in re.findall(r"(IPv\d) ([\d,]+ · [\d,]*\d)", unit)}
    assert plain == {name: row[0] for name, row in rows.items() if name.startswith("plain veth") and row[1] == "-"}
    assert axis.pop() == "% of plain veth"
    assert all(re.fullmatch(r"[\d.,]+", value) for value in axis)
    drawn = set()
    for group, way, label, width in bars:
        found = LABEL.fullmatch(label)
        assert found is not None, label
        percent, mbps, by_upstream, times = found.groups()
        name = f"{group}, upstream's" if by_upstream else f"{group}, ours"
        drawn.add((name, way))
        assert [column.split(" · ")[way] for column in rows[name][:2]] == [mbps, f"{percent} %"], label
        compared = rows.get(f"{group}: ours / upstream's")
        assert times == (compared[way] if compared and not by_upstream else None), label
        most, longest = max((float(one.partition(" ")[0]), length) for *_, one, length in bars)
        assert width / longest == pytest.approx(float(percent) / most, rel=0.1)
    paths = {name for name in rows if re.fullmatch(r"(direct|relayed) IPv\d, (ours|upstream's)", name)}
    assert drawn == {(name, way) for name in paths for way in WAYS.values()}


def labels(picture: str) -> tuple[list[Drawn], list[str]]:
    """All bars, and all other words in their order."""
    root = ElementTree.fromstring(picture)
    _paper, *rectangles = root.iter(RECT)
    lengths = iter([float(one.attrib["width"]) for one in rectangles])
    bars, others, group, way = list[Drawn](), list[str](), "", 0
    for element in root.iter(TEXT):
        words = element.text or ""
        if words in WAYS:
            way = WAYS[words]
        elif element.attrib["class"].startswith("middle"):
            group = words
        elif group:
            bars.append((group, way, words, next(lengths)))
        else:
            others.append(words)
    assert next(lengths, None) is None
    return bars, others


def rows_of(figures: str) -> dict[str, list[str]]:
    """The first row of each name, for TCP comes first; the first heading by no name."""
    rows: dict[str, list[str]] = {}
    for line in figures.splitlines():
        if line.startswith("|"):
            name, *columns = [cell.strip() for cell in line.split("|")[1:-1]]
            rows.setdefault(name, columns)
    return rows


def everything() -> list[Cell]:
    """All of the matrix, with numbers as large as they come."""
    stages: tuple[Stage, ...] = ("paced", "overload")
    lost_in = {"stack": 1_111_111, "tun": 2_222_222, "iperf3": 3_333_333}
    costs = dict.fromkeys(("client", "gateway", "relay", "portal"), 123.4)
    cells = []
    for number, variant in enumerate(matrix(), 1):
        for way in DIRECTIONS:
            mbps = 43_210.4 if variant.kind == "veth" else 1234.5 * number + (way == "up")
            cells.append(Cell(variant.name, "full", "tcp", way, mbps, retransmits=123_456, cpu_s_per_gb=costs))
            cells += [
                Cell(variant.name, stage, "udp", way, mbps, sent=8_765_432, lost=654_321, lost_in=lost_in)
                for stage in stages
            ]
    return cells


def run_stack(monkeypatch: pytest.MonkeyPatch, directory: Path, problems: list[str]) -> int:
    """The whole command on a quiet machine, with what it would have measured."""
    measured = [
        Measurement(variant.name, "full", Load("tcp", way), Flow(mbps, 1, retransmits=0), {}, {})
        for variant, mbps in ((VETH, 9000.0), (DIRECT, 1234.0), (UPSTREAM_DIRECT, 777.0))
        for way in DIRECTIONS
    ]
    (directory / documents.DOCUMENT).write_text(DOCUMENT)
    monkeypatch.setattr(documents, "busy_share", lambda: 0.1)
    monkeypatch.setattr(stack, "raised_limits", lambda: contextlib.nullcontext({}))  # the whole machine's
    monkeypatch.setattr(stack, "_measure", lambda *_: (measured, problems))
    return stack.run(["--docs", str(directory)])


def never(*_: object) -> None:
    raise AssertionError("not to be called here")
