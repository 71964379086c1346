"""What an impaired router is told to do to datagrams."""

from lab.impairment import impairment_rules


def test_loss_strikes_datagrams_both_ways_or_only_outwards() -> None:
    assert "\nmeta l4proto udp numgen random mod 100 < 5 counter drop\n" in impairment_rules(loss_percent=5)
    outwards = impairment_rules(loss_percent=20, only_outwards=True)
    assert '\niifname "inside*" meta l4proto udp numgen random mod 100 < 20 counter drop\n' in outwards
    assert "ecn" not in outwards


def test_only_what_can_carry_a_mark_is_marked() -> None:
    rules = impairment_rules(mark_every=10)
    for family in ("ip", "ip6"):
        condition = f"{family} ecn {{ ect0, ect1 }} numgen inc mod 10 0"
        assert f"meta l4proto udp {condition} counter {family} ecn set ce" in rules
    assert "drop" not in rules
