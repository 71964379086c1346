"""What a bad network does to datagrams on their way through a router: it loses some, it marks some as congested.

Datagrams are counted one by one: from the first impairment on, as long as the lab stands, nothing is merged on the
router's links or sent into them as a super-packet. Only UDP is concerned; the portal's websocket stays whole, so that a
failure is the data path's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from lab.topology import Lab

_TABLE: Final = "postern_lab_impairment"
_LINKS: Final = {"client-nat": "client", "gateway-nat": "gateway"}


def impairment_rules(*, loss_percent: int = 0, only_outwards: bool = False, mark_every: int = 0) -> str:
    """Of the datagrams through a router lose so many, and mark every n-th of those that can carry a mark (RFC 3168)."""
    lines = []
    if loss_percent:
        way = 'iifname "inside*" ' if only_outwards else ""
        lines.append(f"{way}meta l4proto udp numgen random mod 100 < {loss_percent} counter drop")
    if mark_every:
        lines += [
            f"meta l4proto udp {family} ecn {{ ect0, ect1 }} numgen inc mod {mark_every} 0 counter {family} ecn set ce"
            for family in ("ip", "ip6")
        ]
    # Before the router's own chain: what it accepts there has already passed here.
    head = "chain forward { type filter hook forward priority filter - 5; policy accept;"
    return "\n".join([f"table inet {_TABLE} {{", head, *lines, "}", "}", ""])


@contextmanager
def impaired(
    lab: Lab, router: str, *, loss_percent: int = 0, only_outwards: bool = False, mark_every: int = 0
) -> Iterator[None]:
    """Let ``client-nat`` or ``gateway-nat`` impair what it forwards, both ways unless told otherwise."""
    rules = impairment_rules(loss_percent=loss_percent, only_outwards=only_outwards, mark_every=mark_every)
    namespace, end = lab.namespace(router), lab.namespace(_LINKS[router])
    single = [
        (lab.internet, router, "tx off"),
        (end, "eth0", "tx off"),
        (namespace, "outside", "gro off"),
        (namespace, "inside", "gro off"),
    ]
    for where, interface, words in single:
        lab.run(where, ["ethtool", "-K", interface, *words.split()])
    lab.run(namespace, ["nft", rules])
    try:
        yield
    finally:
        lab.run(namespace, ["nft", "delete", "table", "inet", _TABLE])


def impaired_count(lab: Lab, router: str) -> int:
    """How many datagrams an impairment has lost or marked so far."""
    words = lab.run(lab.namespace(router), ["nft", "list", "table", "inet", _TABLE]).split()
    return sum(int(words[i + 1]) for i, word in enumerate(words) if word == "packets")
