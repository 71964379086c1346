"""The gateway's nftables table as text."""

from gateway.rules import only_masquerade, rules


def chain(text: str, name: str) -> list[str]:
    """The rules of a chain, without its hook."""
    body = text.split(f"  chain {name} {{", 1)[1].split("\n  }", 1)[0]
    return [line.strip() for line in body.splitlines() if line.strip() and " hook " not in line]


def test_into_the_tunnel_goes_what_answers() -> None:
    text = rules("tun0", (), ())
    assert chain(text, "into_tunnel") == ["ct state established,related accept", "counter drop"]
    assert chain(text, "forward")[0] == 'oifname "tun0" goto into_tunnel'
    assert chain(text, "output")[-1] == "goto into_tunnel"


def test_out_of_the_tunnel_the_host_sees_echo_and_the_sites_dns() -> None:
    accepted = [line for line in chain(rules("tun0", (), ()), "input") if line.endswith("accept")]
    assert accepted == [
        'iifname != "tun0" accept',
        "icmp type echo-request accept",
        "icmpv6 type echo-request accept",
        "ip daddr 100.64.0.0/11 tcp dport 53535 accept",
        "ip daddr 100.64.0.0/11 udp dport 53535 accept",
        "ip6 daddr fd00:2021:1111::/107 tcp dport 53535 accept",
        "ip6 daddr fd00:2021:1111::/107 udp dport 53535 accept",
    ]
    assert chain(rules("tun0", (), ()), "input")[-1] == "counter reject with icmpx type admin-prohibited"


def test_a_confined_family_forwards_the_tunnel_only() -> None:
    assert chain(rules("tun0", (), ()), "forward")[-1] == 'iifname "tun0" accept'
    assert chain(rules("tun0", ("ipv6",), ()), "forward")[-1] == "meta nfproto ipv6 counter drop"
    assert chain(rules("tun0", ("ipv4", "ipv6"), ()), "forward")[-2:] == [
        "meta nfproto ipv4 counter drop",
        "meta nfproto ipv6 counter drop",
    ]


def test_what_was_switched_on_is_marked_for_a_successor() -> None:
    assert "chain switched_on_ipv4 { }" in rules("tun0", (), ("ipv4",))
    assert "switched_on" not in rules("tun0", ("ipv4",), ())


def test_what_stays_for_running_connections_is_the_masquerade() -> None:
    text = only_masquerade("tun0")
    assert text.count("chain ") == 1
    assert chain(text, "postrouting") == chain(rules("tun0", (), ()), "postrouting")
