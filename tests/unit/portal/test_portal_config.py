"""The YAML file: what it may say, and how every mistake is named."""

from pathlib import Path

import pytest

from connectivity.settings import SettingsError
from portal import addresses, config_file
from portal.configuration import EVERYONE, NEVER, Configuration, Filter, ResourceType, TokenType

GOOD = """
listen: "[::]:9000"
secret: a-secret-of-the-portal
dns: {upstream: [1.1.1.1, "[2606:4700::1111]:5353"], search_domain: corp.example}
sites:
  - name: hq
  - {name: branch, id: 11111111-2222-3333-4444-555555555555}
resources:
  - {name: lan, type: cidr, address: 10.20.0.0/16, sites: [hq, branch], filters: [tcp, tcp/80, udp/53-60, icmp]}
  - {name: box, type: ip, address: "fd12::7", sites: [hq], description: the box}
  - {name: wiki, type: dns, address: "*.corp.example", sites: [hq], ip_stack: ipv4_only}
  - {name: everything, type: internet, sites: [branch]}
policies:
  - {resource: lan, groups: [staff]}
  - {resource: wiki, actors: [bob], expires_at: 2027-01-31T12:00:00Z}
  - {resource: box, groups: [everyone]}
tokens:
  - {type: client, name: laptop, actor: alice, groups: [staff], token: t1}
  - {type: client, name: bob, token: t2, expires_at: 2027-01-31}
  - {type: gateway, site: hq, token: t3}
  - {type: relay, token: t4}
"""


def test_everything_that_a_file_may_say() -> None:
    configuration = parse(GOOD)
    assert str(configuration.listen) == "[::]:9000"
    assert [resource.type for resource in configuration.resources] == [
        ResourceType.CIDR,
        ResourceType.IP,
        ResourceType.DNS,
        ResourceType.INTERNET,
    ]
    lan, box, wiki, everything = configuration.resources
    assert lan.filters == (Filter("tcp"), Filter("tcp", (80, 80)), Filter("udp", (53, 60)), Filter("icmp"))
    assert len(lan.site_ids) == 2
    assert box.address == "fd12::7/128"
    assert wiki.ip_stack == "ipv4_only"
    assert everything.site_ids == ("11111111-2222-3333-4444-555555555555",)
    laptop, bob, gateway, relay = configuration.tokens
    assert (laptop.type, laptop.actor, laptop.groups) == (TokenType.CLIENT, "alice", frozenset({"staff", EVERYONE}))
    assert (bob.actor, bob.expires_at) == ("bob", 1801353600)
    assert gateway.site_id == configuration.sites[0].id
    assert relay.expires_at == NEVER
    assert [str(server) for server in configuration.dns.upstream] == ["1.1.1.1:53", "[2606:4700::1111]:5353"]


def test_an_empty_file_is_a_portal_without_anything() -> None:
    assert parse("") == Configuration(listen=parse("").listen)
    assert str(parse("").listen) == "0.0.0.0:8081"


def test_ids_do_not_depend_on_the_order() -> None:
    first, second = parse("sites: [{name: a}, {name: b}]"), parse("sites: [{name: b}, {name: a}]")
    assert {site.name: site.id for site in first.sites} == {site.name: site.id for site in second.sites}


def test_secrets_stay_out_of_repr() -> None:
    shown = repr(parse(GOOD.replace("t1", "token-of-alice")))
    assert "token-of-alice" not in shown
    assert "a-secret-of-the-portal" not in shown


def test_three_mistakes_are_one_line_that_names_all_three() -> None:
    text = problem(
        """
sites: [{name: hq}]
resources:
  - {name: lan, type: cidr, address: 10.20.3.4/16, sites: [hq]}
  - {name: wiki, type: dns, address: wiki.example, sites: [hx]}
tokens:
  - {type: gatway, site: hq, token: t}
"""
    )
    assert "\n" not in text
    assert text.startswith("portal.yaml: resources[0].address is '10.20.3.4/16': ")
    assert "as in 10.20.0.0/16" in text
    assert "resources[1].sites is 'hx': expected a site: hq" in text
    assert "tokens[0].type is 'gatway': expected client, gateway or relay" in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param("sites: [", "line 1, column 9", id="syntax"),
        pytest.param("- a", "expected a mapping at the top", id="top is a list"),
        pytest.param("sites: []\nsites: []", "key 'sites' is given twice", id="key twice"),
        pytest.param("portal: 1", "portal is not a known key: expected listen, sites", id="unknown key"),
        pytest.param("listen: 8081", "listen is 8081: expected address:port", id="listen"),
        pytest.param("listen: localhost:8081", "expected address:port", id="listen by name"),
        pytest.param("sites: {name: hq}", "sites is {'name': 'hq'}: expected a list of mappings", id="no list"),
        pytest.param("sites: [hq]", "sites[0] is 'hq': expected a mapping", id="no mapping"),
        pytest.param("sites: [{name: yes}]", "sites[0].name is True: expected a text (in quotes", id="YAML boolean"),
        pytest.param("sites: [{}]", "sites[0].name is missing: expected a name", id="missing"),
        pytest.param("sites: [{name: a, id: b}]", "sites[0].id is 'b': expected a UUID", id="id"),
        pytest.param("sites: [{name: a}, {name: a}]", "the name 'a' more than once", id="name twice"),
        pytest.param("sites: [{name: a, nmae: b}]", "sites[0].nmae is not a known key: expected name, id", id="typo"),
        pytest.param("secret: short", "secret is (hidden): expected at least 16", id="secret"),
        pytest.param("dns: {upstream: [dns.example]}", "dns.upstream[0] is 'dns.example'", id="dns server by name"),
        pytest.param("dns: {upstream: [100.64.0.1]}", "which is reserved", id="dns server in our range"),
        pytest.param("policies: [{resource: x, groups: [everyone]}]", "expected a resource, but there is none", id="x"),
        pytest.param("tokens: [{type: relay}]", "tokens[0].token is missing", id="token missing"),
        pytest.param("tokens: [{type: relay, token: a b}]", "tokens[0].token is (hidden)", id="token with space"),
        pytest.param("tokens: [{type: relay, token: []}]", "tokens[0].token is (hidden): expected at least", id="none"),
        pytest.param("tokens: [{type: relay, token: [a, b c]}]", "tokens[0].token is (hidden)", id="one of two"),
        pytest.param("tokens: [{type: relay, token: [a, [b]]}]", "expected a text", id="list in a list"),
        pytest.param(
            "tokens: [{type: relay, token: [a, b]}, {type: relay, name: c, token: [d, b]}]", "same text", id="shared"
        ),
        pytest.param("tokens: [{type: client, token: a}]", "has neither name nor actor", id="whose token"),
        pytest.param("tokens: [{type: gateway, token: a}]", "tokens[0].site is missing", id="gateway without site"),
        pytest.param("tokens: [{type: relay, token_file: none}]", "cannot be read: No such file", id="token file"),
        pytest.param("tokens: [{type: relay, token: a, expires_at: soon}]", "expected a time such as", id="time"),
        pytest.param(
            "tokens: [{type: relay, token: a}, {type: relay, name: b, token: a}]", "has the same text", id="text twice"
        ),
        pytest.param("tokens: [{type: relay, token: a, site: hq}]", "tokens[0].site is not a known key", id="foreign"),
    ],
)
def test_mistakes_are_named(content: str, expected: str) -> None:
    text = problem(content)
    assert expected in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("type: cidr, address: 10.0.0.1/8", "expected host bits to be zero, as in 10.0.0.0/8"),
        ("type: cidr, address: 10.0.0.1", "for one address use type ip"),
        ("type: cidr, address: 100.64.1.0/24", "expected an address outside 100.64.0.0/10"),
        ("type: cidr, address: 'fd00:2021:1111::/64'", "which is reserved"),
        ("type: cidr, address: 127.0.0.0/8", "which no gateway can reach"),
        ("type: ip, address: 0.0.0.0", "which no gateway can reach"),
        ("type: ip, address: host", "expected an address such as 10.20.0.5"),
        ("type: dns, address: 10.0.0.1", "for an address use type ip"),
        ("type: dns, address: '*'", "for everything use type internet"),
        ("type: dns, address: a..b", "expected a domain"),
        ("type: dns, address: example.com.", "expected a domain"),
        ("type: internet, address: 0.0.0.0/0", "is the Internet: expected no address"),
        ("type: ip", "resources[0].address is missing: expected an address such as 10.20.0.5"),
        ("type: vpn, address: x", "resources[0].type is 'vpn'"),
        ("type: cidr, address: 10.0.0.0/8, ip_stack: dual", "expected it with type dns only"),
        ("type: cidr, address: 10.0.0.0/8, filters: [sctp]", "resources[0].filters[0] is 'sctp': expected a filter"),
    ],
)
def test_mistakes_in_resources_are_named(body: str, expected: str) -> None:
    assert expected in problem(f"sites: [{{name: hq}}]\nresources: [{{name: r, sites: [hq], {body}}}]")


def test_resource_without_site() -> None:
    assert "has no sites" in problem("resources: [{name: r, type: internet}]")


def test_policy_must_name_somebody() -> None:
    base = "sites: [{name: hq}]\nresources: [{name: r, type: internet, sites: [hq]}]\n"
    assert "names nobody" in problem(base + "policies: [{resource: r}]")
    assert "policies[0].groups is 'staf'" in problem(base + "policies: [{resource: r, groups: [staf]}]")


@pytest.mark.parametrize("text", ["0.0.0.0/0", "::/0", "10.0.0.0/8", "FD12:3456::/64", "192.0.2.1/32"])
def test_networks_that_are_fine(text: str) -> None:
    assert addresses.parse_network(text) == text.lower()


@pytest.mark.parametrize(
    "text", ["tcp/", "tcp/a", "tcp/70000", "tcp/5-4", "udp/1-2-3", "icmp/8", "", "tcp/-1", "tcp/²"]
)
def test_filters_that_are_not(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        addresses.parse_filter(text)


def test_token_file_is_relative_to_the_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file\n")
    (tmp_path / "portal.yaml").write_text("tokens: [{type: relay, token_file: token}]")
    assert config_file.load(tmp_path / "portal.yaml").tokens[0].texts == ("from-a-file",)


def test_an_entry_may_have_several_texts_while_one_takes_anothers_place(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_text(f"{name}-from-a-file\n")
    (tmp_path / "portal.yaml").write_text("tokens: [{type: relay, token_file: [old, new]}]")
    assert config_file.load(tmp_path / "portal.yaml").tokens[0].texts == ("old-from-a-file", "new-from-a-file")
    assert parse("tokens: [{type: relay, token: [a, b, a]}]").tokens[0].texts == ("a", "b")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*none\.yaml: No such file"):
        config_file.load(tmp_path / "none.yaml")


def test_the_example_in_the_documentation(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    for name in ("gateway-hq", "gateway-hq-2", "gateway-of-contractor", "relay"):
        (tmp_path / "secrets" / name).write_text(f"token of {name}".replace(" ", "-"))
    text = (Path(__file__).parents[3] / "docs" / "portal.md").read_text(encoding="utf-8")
    example = text.partition("```yaml\n")[2].partition("```")[0]
    assert len(config_file.parse(example, base=tmp_path).resources) == 4


def parse(content: str) -> Configuration:
    return config_file.parse(content, base=Path())


def problem(content: str) -> str:
    with pytest.raises(SettingsError) as caught:
        parse(content)
    return str(caught.value)
