"""Names through everything: the user asks the client, the client the gateway, the gateway its site's name server.

The topology is drawn in ``lab.plan``; the user's ``resolv.conf`` names the client's sentinel, and no hosts file knows
anything. Over IPv4 relayed, and over a dual-stack network directly.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.measure import NAME_URL, answer_by_name
from lab.plan import APP_NAME, PORTAL, SENTINEL, LabSettings, Nat, Underlay
from lab.stack import Stack
from lab.topology import Lab
from lab.transfer import download, upload
from tests.e2e.stage import is_within

pytestmark = pytest.mark.root

LABS = {
    "relayed": LabSettings(Nat.SYMMETRIC, Nat.SYMMETRIC),
    "direct": LabSettings(underlay=Underlay.DUAL),
}


@pytest.fixture(name="stack", scope="module", params=list(LABS.values()), ids=list(LABS))
def _stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    with Lab(request.param) as lab:
        stack = Stack(lab, ebpf=False)
        stack.start()
        yield stack


def dig(stack: Stack, *words: str) -> list[str]:
    """The records that the user gets, sorted."""
    return sorted(stack.lab.run(stack.lab.user, ["dig", "+short", "+tries=2", "+time=20", *words]).splitlines())


def test_pages_and_files_come_and_go_by_name(stack: Stack) -> None:
    assert APP_NAME not in Path("/etc/hosts").read_text(encoding="utf-8")
    assert answer_by_name(stack.lab, 4).address.startswith("100.96.0.")
    assert answer_by_name(stack.lab, 6).address.startswith("fd00:2021:1111:8000:")
    download(stack.lab, 5_000_000, url=NAME_URL)
    upload(stack.lab, 5_000_000, url=NAME_URL)
    is_direct = stack.lab.settings.client_nat is Nat.NONE
    assert is_within(lambda: (stack.path() == "PeerToPeer") == is_direct, 20)


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_the_client_answers_for_the_resource_and_asks_for_all_else(stack: Stack, transport: str) -> None:
    assert stack.lab.run(stack.lab.user, ["cat", "/etc/resolv.conf"]) == f"nameserver {SENTINEL}\n"
    assert dig(stack, transport, APP_NAME, "A") == [f"100.96.0.{number}" for number in range(1, 5)]
    assert len(dig(stack, transport, APP_NAME, "AAAA")) == 4
    assert dig(stack, transport, APP_NAME, "TXT") == ['"the resource behind the gateway"']  # by the site's DNS
    assert dig(stack, transport, "portal.lab", "A") == [PORTAL.address]  # by the host's own server
    assert dig(stack, transport, "nobody.lab", "A") == []


def test_what_was_asked_is_counted_at_the_gateway(stack: Stack) -> None:
    answer_by_name(stack.lab, 4)
    counted = stack.status("gateway")["counters"]
    assert counted["resolver"]["resolved"] + counted["resolver"]["remembered"] > 0
    assert counted["site_dns"]["failed"] == counted["site_dns"]["foreign"] == 0
