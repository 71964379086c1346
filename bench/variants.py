"""What is compared: whole stacks, ours and upstream's, each on a kind of path and over one IP family.

IPv6 means both: IPv6 inside the tunnel, and nothing but IPv6 between the ends or between them and the relay (the
portal alone is reached over IPv4).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar

from lab import measure, network
from lab.plan import LabSettings, Nat, Underlay, relay_site
from lab.stack import Maker, Parts, Stack
from lab.topology import Lab

T = TypeVar("T")
Kind = Literal["veth", "direct", "relayed"]

_NO_IPV4_RELAY: Final = f"""table inet postern_bench {{
chain forward {{ type filter hook forward priority filter; policy accept;
ip protocol udp ip daddr {relay_site(1).address} drop
}}
}}
"""


@dataclass(frozen=True, slots=True)
class Variant:
    """One stack in one network; of the kind ``veth`` the bare link that the others are held against."""

    kind: Kind
    ends: Maker = Maker.OURS
    relay: Maker = Maker.OURS
    ebpf: bool = True
    ipv6: bool = False

    @property
    def name(self) -> str:
        """Who plays which part, and over what."""
        family = ", IPv6" if self.ipv6 else ""
        if self.kind == "veth":
            return f"plain veth{family}"
        if self.kind == "direct":
            return f"direct{family}, {_whose(self.ends)} ends"
        by = "" if self.relay is Maker.UPSTREAM else " by XDP" if self.ebpf else " in Python"
        return f"relayed{family}, {_whose(self.ends)} ends, {_whose(self.relay)} relay{by}"

    @property
    def network(self) -> LabSettings:
        underlay = Underlay.DUAL if self.ipv6 else Underlay.IPV4
        if self.kind == "relayed":
            return LabSettings(Nat.SYMMETRIC, Nat.SYMMETRIC, underlay, direct_ipv6=False)
        return LabSettings(underlay=underlay, direct_ipv4=not self.ipv6)

    @property
    def all_ours(self) -> bool:
        return {self.ends, self.relay} == {Maker.OURS}


@contextmanager
def running(
    variant: Variant,
    programs: Mapping[str, Path],
    environment: Mapping[str, str] | None = None,
    gateway_environment: Mapping[str, str] | None = None,
) -> Iterator[Stack]:
    """A fresh network with the variant's stack in it, its tunnel up."""
    with Lab(variant.network) as lab:
        if variant.ipv6 and variant.kind == "relayed":
            for router in (lab.client_nat, lab.gateway_nat):
                network.load_rules(router, _NO_IPV4_RELAY)
        parts = Parts(variant.ends, variant.ends, variant.relay, programs)
        stack = Stack(lab, parts, ebpf=variant.ebpf, environment=environment, gateway_environment=gateway_environment)
        stack.start()
        measure.first_answer_ms(lab, measure.PAGE_URL6 if variant.ipv6 else measure.PAGE_URL)
        yield stack


def possible(variants: Sequence[Variant], programs: Mapping[str, Path]) -> list[Variant]:
    """Those for which the programs are at hand."""
    return [variant for variant in variants if programs or variant.all_ours]


def in_turn(variants: Sequence[Variant], rounds: int, once: Callable[[Variant], T]) -> dict[Variant, list[T]]:
    """Measure each variant once a round, so that a machine that slows down slows all of them.

    Each round begins with another one: on a machine that tires, being first is worth something.
    """
    found: dict[Variant, list[T]] = {variant: [] for variant in variants}
    for number in range(rounds):
        first = number % max(1, len(variants))
        for variant in (*variants[first:], *variants[:first]):
            found[variant].append(once(variant))
    return found


def _whose(maker: Maker) -> str:
    return "our" if maker is Maker.OURS else "upstream's"
