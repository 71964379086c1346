"""What ``bench tunnel`` compares: each subject is a tunnel (or a bare link) that stands while all of them are measured.

All stand at once and are asked in turn, load by load: those that are compared are measured seconds apart.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.measurement import judge_way
from bench.presealed import CLIENTS
from bench.variants import Variant, running
from bench.wireguard_go import wireguard_go
from lab.cpu import family_seconds
from lab.plan import TUN_MTU
from lab.stack import Maker, Stack
from lab.topology import Lab

OURS, UPSTREAM = Maker.OURS, Maker.UPSTREAM
ENDS: Final = ("client", "gateway")
_TCP_HEADERS: Final = 52  # IPv4's 20, TCP's 20 and its timestamps
_LINK_MTU: Final = 1500


@dataclass(frozen=True, slots=True)
class Subject:
    """``peers`` says whose programs play the parts of upstream; ``workers`` None: as many as the gateway takes.

    ``is_crowd``: many clients that send what was sealed before, and nothing else is measured.
    """

    key: str
    name: str
    variant: Variant | None  # None: wireguard-go
    peers: str = ""
    workers: int | None = None
    by_name: bool = False
    is_default: bool = True
    is_crowd: bool = False
    colour: str = "other"

    @property
    def is_link(self) -> bool:
        return self.variant is not None and self.variant.kind == "veth"

    @property
    def segment_bytes(self) -> int:
        """TCP's payload in a full packet."""
        return (_LINK_MTU if self.is_link else TUN_MTU) - _TCP_HEADERS


_DIRECT, _XDP = Variant("direct"), Variant("relayed")
_THEIR_DIRECT, _THEIR_RELAYED = Variant("direct", UPSTREAM), Variant("relayed", UPSTREAM, UPSTREAM)
SUBJECTS: Final = (
    Subject("veth", "plain veth", Variant("veth")),
    Subject("direct", "ours, direct", _DIRECT, colour="direct"),
    Subject("relayed", "ours, relayed by XDP", _XDP, colour="relayed"),
    Subject("wireguard-go", "wireguard-go", None),
    Subject("2026", "upstream's of 2026, direct", _THEIR_DIRECT, "2026"),
    Subject("2026-relayed", "upstream's of 2026, relayed", _THEIR_RELAYED, "2026"),
    Subject("2025", "upstream's of 2025, direct", _THEIR_DIRECT, "2025"),
    Subject("2025-relayed", "upstream's of 2025, relayed", _THEIR_RELAYED, "2025"),
    Subject("crowd-1", f"gateway of {CLIENTS} clients, 1 worker", _DIRECT, workers=1, is_crowd=True),
    Subject("crowd-2", f"gateway of {CLIENTS} clients, 2 workers", _DIRECT, workers=2, is_crowd=True),
    Subject("name", "ours, direct, names translated", _DIRECT, by_name=True, is_default=False, colour="direct"),
    Subject("relayed-name", "ours, relayed, names translated", _XDP, by_name=True, is_default=False, colour="relayed"),
    Subject("1-worker", "ours, direct, 1 worker", _DIRECT, workers=1, is_default=False, colour="direct"),
    Subject("2-workers", "ours, direct, 2 workers", _DIRECT, workers=2, is_default=False, colour="direct"),
    Subject("python", "ours, relayed in Python", Variant("relayed", ebpf=False), is_default=False, colour="relayed"),
    Subject(
        "their-relay",
        "ours, relayed by upstream's of 2025",
        Variant("relayed", OURS, UPSTREAM),
        "2025",
        is_default=False,
        colour="relayed",
    ),
)


@dataclass(frozen=True, slots=True)
class Programs:
    """Those of others that are at hand: upstream's by generation and name, wireguard-go's path."""

    upstream: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    wireguard_go: str | None = None

    def allow(self, subject: Subject) -> bool:
        """Whether all are there that the subject needs."""
        if subject.variant is None:
            return self.wireguard_go is not None
        there = self.upstream.get(subject.peers, {})
        return set(_needed(subject.variant)) <= set(there)


@dataclass(frozen=True, slots=True)
class Standing:
    """A subject that runs. ``source`` None: the user behind the client; ``stack`` None: no portal is in it."""

    subject: Subject
    lab: Lab
    source: str | None = None
    stack: Stack | None = None

    def cpu_seconds(self) -> dict[str, float]:
        """What both ends have used so far; nothing of a bare link."""
        found = {process.name: process.pid for process in self.lab.processes}
        return {role: family_seconds(found[role]) for role in ENDS if role in found}

    def problems(self) -> list[str]:
        """Where what went through did not take the way that was to be measured."""
        if self.stack is None or self.subject.variant is None:
            return []
        return [f"{self.subject.name}: {text}" for text in judge_way(self.stack, self.subject.variant)]


@contextmanager
def standing(subject: Subject, programs: Programs) -> Iterator[Standing]:
    """Start a subject in a network of its own.

    Raises:
        LabError: it does not come up.
    """
    if subject.variant is None:
        with wireguard_go(programs.wireguard_go or "") as lab:
            yield Standing(subject, lab)
    elif subject.is_link:
        with Lab(subject.variant.network) as lab:
            Stack(lab).start_resource()
            yield Standing(subject, lab, lab.gateway)  # one link between them
    else:
        environment = {} if subject.workers is None else {"POSTERN_WORKERS": str(subject.workers)}
        upstream = programs.upstream.get(subject.peers, {})
        with running(subject.variant, upstream, gateway_environment=environment) as stack:
            yield Standing(subject, stack.lab, stack=stack)


def _needed(variant: Variant) -> list[str]:
    ends = ["firezone-headless-client", "firezone-gateway"] if variant.ends is UPSTREAM else []
    return [*ends, "firezone-relay"] if variant.relay is UPSTREAM else ends
