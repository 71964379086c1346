"""The nftables rulesets of the lab as text: routers of each NAT kind, the client's users, a gateway's masquerade.

NAT is described by mapping and filtering (RFC 4787): *full-cone* maps and filters independently of the endpoint,
approximated by keeping ports and by forwarding every unsolicited UDP port to the one host inside; *symmetric* takes a
fresh random port per destination and lets in only answers.
"""

from collections.abc import Sequence

# ``connectivity.tunnel`` has them, too; importing it would take a quarter of a second of each small program of the lab.
TUNNEL_IPV4 = "100.64.0.0/11"
TUNNEL_IPV6 = "fd00:2021:1111::/107"
# Ports below stay the router's own.
_FORWARDED_PORTS = "1024-65535"


def router_rules(kind: str, public: str, inside_host: str, blocked: Sequence[str] = ()) -> str:
    """A router between ``outside`` and ``inside…``; to ``blocked`` addresses and networks it lets nothing out."""
    forward = [f'iifname "inside*" {"ip6" if ":" in to else "ip"} daddr {to} drop' for to in blocked]
    prerouting: list[str] = []
    postrouting: list[str] = []
    match kind:
        case "none":
            pass
        case "full-cone":
            prerouting += [f'iifname "outside" ip daddr {public} udp dport {_FORWARDED_PORTS} dnat to {inside_host}']
            postrouting += [f'oifname "outside" ip saddr {inside_host} snat to {public}']
        case "symmetric":
            forward += ["ct state established,related accept", 'iifname "outside" drop']
            postrouting += ['oifname "outside" meta nfproto ipv4 masquerade random,fully-random']
        case _:
            raise ValueError(f"no such kind of NAT: {kind}")
    return _table(forward=forward, prerouting=prerouting, postrouting=postrouting)


def client_rules(users: str, tun: str) -> str:
    """The users behind a client reach the tunnel and nothing else, under the client's tunnel address."""
    return _table(
        forward=[f'iifname "{users}" oifname != "{tun}" reject'],
        postrouting=[f'iifname "{users}" oifname "{tun}" masquerade'],
    )


def gateway_router_rules(tun: str, outside: str) -> str:
    """Forwards the tunnel and masquerades its ranges towards the resources."""
    return _table(
        forward=[f'iifname "{tun}" accept', f'oifname "{tun}" accept'],
        postrouting=[
            f'ip saddr {TUNNEL_IPV4} oifname "{outside}" masquerade',
            f'ip6 saddr {TUNNEL_IPV6} oifname "{outside}" masquerade',
        ],
    )


def _table(*, forward: list[str], postrouting: list[str], prerouting: list[str] | None = None) -> str:
    chains = {
        "forward { type filter hook forward priority filter; policy accept;": forward,
        "prerouting { type nat hook prerouting priority dstnat;": prerouting or [],
        "postrouting { type nat hook postrouting priority srcnat;": postrouting,
    }
    lines = [line for head, rules in chains.items() if rules for line in (f"chain {head}", *rules, "}")]
    return "\n".join(["table inet postern_lab {", *lines, "}", ""])
