"""The text of resolv.conf: what is read of the host's, what ours says, and that it carries the host's along."""

from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.dns import resolv_conf, system_servers
from client.dns.system_servers import SystemServer

SENTINELS = (ip_address("100.100.111.1"), ip_address("fd00:2021:1111:8000:100:100:111:0"))
BACKUP = "/etc/resolv.conf.before-firezone"
HOST = """\
# by hand
domain old.example
search corp.example lab.example
nameserver 192.0.2.1
nameserver 2001:db8::1 # not read as a comment by all
options edns0 ndots:3 trust-ad
options ndots:5
sortlist 192.0.2.0/24
"""


def ours(text: str, search: str | None = None) -> str:
    return resolv_conf.ours(text, SENTINELS, search, BACKUP)


def test_our_servers_and_search_domain_stand_in_place_of_the_hosts_and_its_options_stay() -> None:
    lines = [line for line in ours(HOST, "internal.example").splitlines() if not line.startswith("#")]
    assert lines == [
        "options edns0 trust-ad",
        "sortlist 192.0.2.0/24",
        "options ndots:1",
        "search internal.example",
        "nameserver 100.100.111.1",
        "nameserver fd00:2021:1111:8000:100:100:111:0",
    ]
    assert ours(HOST).splitlines()[0] == "# BEGIN Firezone DNS configuration"
    assert BACKUP in ours(HOST)
    assert "search" not in [line.split(" ")[0] for line in ours(HOST).splitlines()]


def test_firezones_own_file_is_ours_too_but_carries_nothing() -> None:
    theirs = "# BEGIN Firezone DNS configuration\n# some comment\nnameserver 100.100.111.1\noptions ndots:1\n"
    assert resolv_conf.is_ours(theirs)
    assert resolv_conf.before(theirs) is None


def test_a_line_that_somebody_puts_on_top_does_not_make_it_the_hosts() -> None:
    edited = "# note to self\n" + ours(HOST)
    assert resolv_conf.is_ours(edited)
    assert resolv_conf.before(edited) == HOST


def test_half_of_what_is_carried_is_nothing() -> None:
    text = ours(HOST)
    cut = text.index("#|nameserver 2001")
    assert resolv_conf.before(text[:cut]) is None


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("\n#| \r\udcff")))
def test_any_text_comes_back(text: str) -> None:
    assert resolv_conf.before(ours(text)) == text
    assert resolv_conf.is_ours(ours(text))
    assert resolv_conf.nameservers(ours(text)) == ()


@given(st.binary(max_size=200), st.integers(0, 600))
def test_padding_fills_and_goes(content: bytes, length: int) -> None:
    padded = resolv_conf.padded(content, length)
    assert padded == content or (len(padded) == length and resolv_conf.unpadded(padded) == content)
    assert resolv_conf.nameservers(padded.decode("latin-1")) == resolv_conf.nameservers(content.decode("latin-1"))


def test_servers_are_read_as_the_c_library_reads_them_and_sentinels_are_none() -> None:
    text = f"{HOST}nameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver 100.100.111.7\nnameserver\nnameserver x\n"
    assert resolv_conf.nameservers(text) == (
        SystemServer(ip_address("192.0.2.1")),
        SystemServer(ip_address("2001:db8::1")),
        SystemServer(ip_address("fe80::1"), "eth0"),
    )


@pytest.mark.parametrize(
    ("word", "server"),
    [
        ("192.0.2.1", SystemServer(ip_address("192.0.2.1"))),
        ("192.0.2.1:53", SystemServer(ip_address("192.0.2.1"))),
        ("192.0.2.1#dns.example", SystemServer(ip_address("192.0.2.1"))),
        ("192.0.2.1:853#dns.example", None),
        ("[2001:db8::1]:53", SystemServer(ip_address("2001:db8::1"))),
        ("[2001:db8::1]:5353", None),
        ("fe80::1%2", SystemServer(ip_address("fe80::1"), "2")),
        ("::ffff:192.0.2.1", SystemServer(IPv4Address("192.0.2.1"))),
        ("127.0.0.53", SystemServer(ip_address("127.0.0.53"))),
        ("dns.example", None),
        ("", None),
    ],
)
def test_words_of_servers(word: str, server: SystemServer | None) -> None:
    assert system_servers.parse(word) == server


def test_each_server_counts_once_and_there_are_not_too_many() -> None:
    many = [SystemServer(IPv4Address(f"192.0.2.{number % 100}")) for number in range(200)]
    assert len(system_servers.usable(many)) == 16
    assert len(system_servers.usable(many[:1] * 5)) == 1


def test_resolvectl_names_servers_by_link() -> None:
    output = """\
Global: 192.0.2.9
Link 2 (eth0): 192.0.2.1 192.0.2.2
               fe80::1%2
Link 3 (docker0):
Link 7 (tun-firezone): 100.100.111.1
"""
    assert system_servers.in_resolvectl(output) == {
        "Global": ["192.0.2.9"],
        "eth0": ["192.0.2.1", "192.0.2.2", "fe80::1%2"],
        "docker0": [],
        "tun-firezone": ["100.100.111.1"],
    }
