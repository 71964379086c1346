"""Tables of iptables' older kind, by what the kernel lists; nftables' are in tests/netns."""

from pathlib import Path

from connectivity.io.firewall import _hook_name, _older


def test_tables_that_filter_are_named_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "ip_tables_names").write_text("nat\nfilter\n")
    (tmp_path / "ip6_tables_names").write_text("raw\n")
    assert _older(tmp_path) == ["ip filter (iptables-legacy)", "ip6 raw (iptables-legacy)"]


def test_a_host_without_them_has_none(tmp_path: Path) -> None:
    assert _older(tmp_path) == []


def test_every_hook_has_a_name() -> None:
    names = [_hook_name(number) for number in range(7)]
    assert names == ["prerouting", "input", "forward", "output", "postrouting", "ingress", "hook 6"]
