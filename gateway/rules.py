"""The gateway's nftables table as text.

Into the tunnel goes what answers a client, by the kernel's connection tracking, which outlives this process; out of it,
nothing reaches the host but echo and the site's DNS. A family that is ``confined`` has the tunnel's traffic forwarded
and no other. What our chains accept, the chains of other tables still see.
"""

from collections.abc import Collection
from typing import Final

from connectivity.tunnel import PEERS_IPV4, PEERS_IPV6
from gateway.peers import SITE_DNS_PORT

TABLE: Final = "postern_gateway"
FAMILIES: Final = ("ipv4", "ipv6")
# Chains without rules: what a process that is killed leaves for its successor to know.
SWITCHED_ON: Final = {"ipv4": "switched_on_ipv4", "ipv6": "switched_on_ipv6"}


def rules(device: str, confined: Collection[str], switched_on: Collection[str]) -> str:
    """The table as nft reads it, in place of the one that may be there.

    Args:
        device: the tunnel's.
        confined: families of which the host forwards the tunnel's traffic only.
        switched_on: families whose forwarding is off without us.
    """
    drops = "\n    ".join(f"meta nfproto {family} counter drop" for family in FAMILIES if family in confined)
    marks = "\n  ".join(f"chain {SWITCHED_ON[family]} {{ }}" for family in FAMILIES if family in switched_on)
    return f"""
table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  {marks}
  chain into_tunnel {{
    ct state established,related accept
    counter drop
  }}
  chain input {{
    type filter hook input priority -1; policy accept;
    iifname != "{device}" accept
    icmp type echo-request accept
    icmpv6 type echo-request accept
    ip daddr {PEERS_IPV4} tcp dport {SITE_DNS_PORT} accept
    ip daddr {PEERS_IPV4} udp dport {SITE_DNS_PORT} accept
    ip6 daddr {PEERS_IPV6} tcp dport {SITE_DNS_PORT} accept
    ip6 daddr {PEERS_IPV6} udp dport {SITE_DNS_PORT} accept
    counter reject with icmpx type admin-prohibited
  }}
  chain forward {{
    type filter hook forward priority -1; policy accept;
    oifname "{device}" goto into_tunnel
    iifname "{device}" ct state invalid counter drop
    iifname "{device}" accept
    {drops}
  }}
  chain output {{
    type filter hook output priority -1; policy accept;
    oifname != "{device}" accept
    icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} accept
    icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }} accept
    goto into_tunnel
  }}
{_masquerade(device)}}}
"""


def only_masquerade(device: str) -> str:
    """The table of a gateway that has ended, for connections of clients that wait for the next one.

    Without it the host would take what resources send to them for its own, and reset them.
    """
    return f"""
table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
{_masquerade(device)}}}
"""


def removal() -> str:
    """The end of the table."""
    return f"delete table inet {TABLE}\n"


def _masquerade(device: str) -> str:
    return f"""  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {PEERS_IPV4} oifname != "{device}" masquerade
    ip6 saddr {PEERS_IPV6} oifname != "{device}" masquerade
  }}
"""
