"""What a siege sends, at which pace, and how its figures are judged and shown."""

import hashlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from bench import siege
from bench.figures import LONGEST_TEXT, Figure, as_json, as_markdown, shown, unmet
from bench.siege import FLOODS, read_settings
from bench.siege_flood import HIGHEST_RATE, pace, packets, payloads
from bench.siege_http import MALFORMED
from bench.siege_stage import LogTail, Terms
from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError
from connectivity.stun import MessageClass, Method, RequestedTransport, decode
from connectivity.wireguard import KeyPair, RateLimiter
from ebpf.oracle import ones_complement_sum
from lab.errors import LabError
from lab.stack import postern_command

TARGET = Endpoint.parse("203.0.113.101:3478")
WIDTH = 80
UDP_AT = 20


@pytest.mark.parametrize(
    ("figure", "wanted", "verdict"),
    [
        (Figure("told", 5), "", ""),
        (Figure("told, and never came", None), "", ""),
        (Figure("low enough", 10.0, "ms", at_most=10), "≤ 10", "ok"),
        (Figure("too high", 10.1, "ms", at_most=10), "≤ 10", "not"),
        (Figure("never came", None, "ms", at_most=10), "≤ 10", "not"),
        (Figure("too few", 59, at_least=60), "≥ 60", "not"),
        (Figure("nothing at all", 0, at_most=0), "≤ 0", "ok"),
        (Figure("within", 1, at_least=1, at_most=10), "≥ 1, ≤ 10", "ok"),
        (Figure("below", 0, at_least=1, at_most=10), "≥ 1, ≤ 10", "not"),
        (Figure("just so", 2, at_least=2, at_most=2), "2", "ok"),
    ],
)
def test_a_figure_is_held_against_its_bounds(figure: Figure, wanted: str, verdict: str) -> None:
    assert (figure.wanted, figure.verdict) == (wanted, verdict)
    assert figure.is_met == (verdict != "not")
    assert bool(unmet([figure])) == (verdict == "not")


def test_three_digits_are_shown() -> None:
    values = [0, 0.123, 1.5, 9.999, 61.31, 2011.4, 30_000]
    assert [shown(value) for value in values] == ["0", "0.12", "1.5", "10", "61.3", "2,011", "30,000"]


def test_figures_as_json_say_what_was_missed() -> None:
    figures = [Figure("a", None, "ms", at_most=1), Figure("b", 2)]
    found = as_json(figures, [])
    assert not found["ok"]
    assert [(row["value"], row["ok"]) for row in found["figures"]] == [(None, False), (2, True)]
    assert unmet(figures) == ["a: never, wanted ≤ 1"]
    assert as_json(figures[1:], [])["ok"]
    assert not as_json(figures[1:], ["a lab failed"])["ok"]


def test_every_row_that_a_siege_prints_fits_a_terminal() -> None:
    rows = [
        Figure("x" * LONGEST_TEXT, 10_000, "MiB", at_most=1000),
        Figure("x" * LONGEST_TEXT, 0, at_least=1, at_most=10),
        Figure("x" * LONGEST_TEXT, 30_000, "/s"),
    ]
    assert max(map(len, as_markdown(rows).splitlines())) <= WIDTH
    with pytest.raises(ValueError, match="longer than a row"):
        Figure("x" * (LONGEST_TEXT + 1), 0)


@pytest.mark.parametrize(("kind", "method"), [("bindings", Method.BINDING), ("allocates", Method.ALLOCATE)])
def test_forged_requests_are_what_they_claim_and_none_is_like_another(kind: str, method: Method) -> None:
    made = list(itertools.islice(payloads(kind, b"", _bytes()), 50))
    assert len(set(made)) == 50
    for data in made:
        message = decode(data)
        assert (message.method, message.message_class) == (method, MessageClass.REQUEST)
        assert (message.get(RequestedTransport) is not None) == (method is Method.ALLOCATE)


def test_initiations_have_a_right_mac1_and_no_mac2() -> None:
    keys = KeyPair.generate(_bytes())
    limiter = RateLimiter(keys.public, _bytes(), limit=10)
    source = TARGET.ip
    for data in itertools.islice(payloads("initiations", keys.public, _bytes()), 10):
        assert limiter.admit(data, source, 0) is None  # a wrong mac1 raises
    data = next(payloads("initiations", keys.public, _bytes()))
    assert limiter.admit(data, source, 0) is not None  # beyond the limit: a cookie, for there is no mac2


def test_there_are_no_other_floods() -> None:
    with pytest.raises(ValueError, match="no such flood: rain"):
        payloads("rain", b"", _bytes())


def test_packets_are_whole_and_come_from_everywhere_in_the_network() -> None:
    bodies = payloads("bindings", b"", _bytes())
    made = packets(bodies, TARGET, IPv4Network("198.18.0.0/29"), 60, random.Random(1))
    sources = Counter(packet[12:16] for packet in made)
    assert sources == {bytes((198, 18, 0, number)): 10 for number in range(1, 7)}  # not the network, not its broadcast
    for packet in made:
        assert ones_complement_sum(packet[:UDP_AT]) == 0xFFFF
        length = int.from_bytes(packet[UDP_AT + 4 : UDP_AT + 6], "big")
        pseudo = packet[12:20] + bytes((0, 17)) + length.to_bytes(2, "big")
        assert ones_complement_sum(pseudo + packet[UDP_AT:]) == 0xFFFF
    one = packets(bodies, TARGET, IPv4Network("203.0.113.20/32"), 3, random.Random(1))
    assert {packet[12:16] for packet in one} == {bytes((203, 0, 113, 20))}


class Clock:
    """Time passes by sleeping, and by what sending takes."""

    def __init__(self, cost: float = 0.0) -> None:
        self.now = 0.0
        self.sent: list[tuple[float, bytes]] = []
        self._cost = cost

    def send(self, packet: bytes) -> None:
        self.sent.append((self.now, packet))
        self.now += self._cost

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("rate", [100, 1000, 30_000, HIGHEST_RATE])
def test_a_flood_keeps_its_pace(rate: int) -> None:
    clock = Clock()
    reached = pace(clock.send, [b"a", b"b", b"c"], rate, 0.5, lambda: clock.now, clock.sleep)
    assert reached.rate == pytest.approx(rate, rel=0.03)
    assert [packet for _, packet in clock.sent[:4]] == [b"a", b"b", b"c", b"a"]
    half = sum(at < 0.25 for at, _ in clock.sent)
    assert half == pytest.approx(len(clock.sent) / 2, rel=0.05)


def test_a_flood_ends_in_time_where_sending_is_too_slow_for_its_pace() -> None:
    clock = Clock(cost=0.001)
    reached = pace(clock.send, [b"a"], 10_000, 1.0, lambda: clock.now, clock.sleep)
    assert reached.seconds < 1.6  # the burst that was due ends, and no other begins
    assert reached.rate == pytest.approx(1000, rel=0.05)


def test_every_malformed_request_carries_the_token() -> None:
    assert all(b"%b" in request for request in MALFORMED)
    assert len({hashlib.sha256(request).digest() for request in MALFORMED}) == len(MALFORMED)


def test_a_log_is_read_from_now_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    tail = LogTail(log)
    assert (tail.size, tail.text()) == (0, "")
    with log.open("a") as file:
        file.write("after\n")
    assert (tail.size, tail.text()) == (6, "after\n")


def test_defaults() -> None:
    settings = read_settings([])
    assert (settings.only, settings.json) == (None, None)
    assert settings.terms == Terms(postern_command(), 5)
    assert settings.terms.command == ["prlimit", "--nofile=1024", str(postern_command())]
    assert set(FLOODS) == {
        "silent", "malformed", "flows", "unread", "tokens", "initiations", "bindings", "allocates", "crowd",
    }  # fmt: skip


def test_a_missed_bound_fails_the_run_and_other_floods_are_still_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Terms) -> list[Figure]:
        raise LabError("no lab today")

    floods: dict[str, Callable[[Terms], list[Figure]]] = {
        "broken": broken,
        "missed": lambda _: [Figure("too high", 2, at_most=1)],
        "met": lambda _: [Figure("fine", 1, at_most=1)],
    }
    monkeypatch.setattr(siege, "FLOODS", floods)
    monkeypatch.setattr(siege, "check_machine", lambda _: None)
    monkeypatch.setattr(siege, "leave_in_order", lambda: None)
    monkeypatch.setattr(siege, "_allow_descriptors", lambda: None)
    kept = tmp_path / "figures.json"
    with pytest.raises(FatalError, match="broken: no lab today; too high: 2, wanted ≤ 1"):
        siege.run(["--json", str(kept)])
    assert "fine" in capsys.readouterr().out
    found = json.loads(kept.read_text())
    assert (found["ok"], found["problems"]) == (False, ["broken: no lab today"])
    assert siege.run(["--only", "met"]) == 0


def _bytes() -> Callable[[int], bytes]:
    return random.Random(3).randbytes
