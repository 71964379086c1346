"""Upstream's own programs and ours in mixes, on our portal: they must not notice.

Each mix fetches a page, moves 50 MB in both directions with equal checksums, takes the path that the network leaves
it, and no upstream program logs a WARN or ERROR outside the list of allowed ones. All programs get the same
environment variables.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from lab.counters import interface_bytes
from lab.measure import PAGE_URL6, first_answer_ms
from lab.plan import LabSettings, Nat, Underlay
from lab.processes import Process
from lab.stack import Maker, Parts, Stack
from lab.topology import Lab
from lab.transfer import download, upload

pytestmark = [pytest.mark.root, pytest.mark.peers]

TRANSFER_BYTES: Final = 50_000_000

# Lines of WARN or ERROR that upstream's programs write in a healthy run, each with its reason.
ALLOWED_WARNINGS: Final = (
    # Built against an older kernel's netlink structures; every newer kernel sends longer ones.
    r"netlink_packet_route::link::buffer_tool: Specified IFLA_INET6_CONF NLA attribute holds more",
    # The feature flags' host is outside the lab; FIREZONE_NO_TELEMETRY does not keep it from looking the name up.
    r"firezone_telemetry::posthog: Failed to resolve ingest host",
)

OURS, UPSTREAM = Maker.OURS, Maker.UPSTREAM


@dataclass(frozen=True)
class Mix:
    """Who plays which part."""

    client: Maker
    gateway: Maker
    relay: Maker

    def parts(self, programs: dict[str, Path]) -> Parts:
        return Parts(self.client, self.gateway, self.relay, programs)

    def upstream_roles(self) -> list[str]:
        return [role for role in ("client", "gateway", "relay") if getattr(self, role) is UPSTREAM]


MIXES: Final = {
    "only the portal is ours": Mix(UPSTREAM, UPSTREAM, UPSTREAM),
    "upstream client": Mix(UPSTREAM, OURS, OURS),
    "our client": Mix(OURS, UPSTREAM, UPSTREAM),
    "our relay": Mix(UPSTREAM, UPSTREAM, OURS),
}
DIRECT: Final = LabSettings(underlay=Underlay.DUAL)
NETWORKS: Final = {
    "direct": DIRECT,
    # Only relayed addresses can meet: both ends send channel data.
    "relayed": LabSettings(Nat.SYMMETRIC, Nat.SYMMETRIC, Underlay.DUAL, direct_ipv6=False),
    # One end sends plain UDP to the other's relayed address.
    "firewalled": LabSettings(underlay=Underlay.DUAL, direct_ipv4=False, direct_ipv6=False),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES.keys())
def test_mix_carries_traffic(mix: Mix, network: LabSettings, peer_programs: dict[str, Path]) -> None:
    with Lab(network) as lab:
        stack = Stack(lab, mix.parts(peer_programs))
        stack.start()
        first_answer_ms(lab)
        first_answer_ms(lab, PAGE_URL6)
        before = sum(interface_bytes(lab.relay, "eth0"))
        download(lab, TRANSFER_BYTES)
        upload(lab, TRANSFER_BYTES)
        relayed = sum(interface_bytes(lab.relay, "eth0")) - before
        if network is DIRECT:
            assert relayed < TRANSFER_BYTES / 10
        else:
            # Twice there, twice back: into the relay and out of it.
            assert relayed > 3 * TRANSFER_BYTES
            if mix.relay is OURS:
                counts = stack.relay_counts()
                assert counts.xdp >= 0.99 * (counts.xdp + counts.python)
        lab.stop()
        complaints = [line for process in _upstream(lab, mix) for line in _complaints(process)]
        assert not complaints, "\n".join(complaints)


def _upstream(lab: Lab, mix: Mix) -> Iterator[Process]:
    roles = mix.upstream_roles()
    return (process for process in lab.processes if process.name in roles)


def _complaints(process: Process) -> Iterator[str]:
    for line in process.log_text().splitlines():
        if re.search(r"\b(WARN|ERROR)\b", line) and not any(re.search(text, line) for text in ALLOWED_WARNINGS):
            yield f"{process.name}: {line}"
