"""``relay.yaml``: the documented example, every mistake at once, and what changes while running."""

import datetime
from collections.abc import Collection
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.settings import SettingsError
from relay import config_file
from relay.configuration import Configuration, OffloadWish
from relay.core import Quotas
from relay.core.own import NO_ADDRESSES
from relay.driver.core_settings import credentials, server_settings
from relay.settings import read_settings

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "relay.yaml"
LEAST = {"realm": "example.org", "public": "{ipv4: 203.0.113.5}", "users": "{alice: secret}"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the example's certificate is."""
    make_certificate(tmp_path, "example.org")
    return tmp_path


def make_certificate(folder: Path, name: str, addresses: Collection[IPAddress] = ()) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=90))
    if addresses:
        names = x509.SubjectAlternativeName([x509.IPAddress(address) for address in addresses])
        builder = builder.add_extension(names, critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))


def document(**entries: str) -> str:
    return "\n".join(f"{key}: {value}" for key, value in {**LEAST, **entries}.items() if value)


def parse(folder: Path, **entries: str) -> Configuration:
    return config_file.parse(document(**entries), base=folder)


def problems(folder: Path, **entries: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        parse(folder, **entries)
    return caught.value.problems


def test_the_documented_example_can_be_loaded(folder: Path) -> None:
    found = config_file.parse(EXAMPLE.read_text(encoding="utf-8"), base=folder)
    assert found.public == {4: ip_address("203.0.113.5"), 6: ip_address("2001:db8::5")}
    assert [str(address) for address in found.listen] == ["0.0.0.0:3478", "[::]:3478"]
    assert [str(address) for address in found.tls_listen] == ["0.0.0.0:5349"]
    assert found.certificate is not None
    assert found.certificate.certificate == folder / "cert.pem"
    assert (found.lowest_port, found.highest_port, found.serves_tcp) == (49_152, 65_535, True)
    assert [str(rule) for rule in found.peers_allow] == ["10.20.0.0/16", "10.30.0.0/16:5000-5999", "[fd00::/8]:443"]
    assert found.quotas == Quotas(10, 5000, 10_000_000, 2_000_000_000, 100, 200)
    assert found.offload == OffloadWish(("eth0",), "auto", (), generic_from_peer=False)
    core = server_settings(found, NO_ADDRESSES, is_standalone=True)
    assert (core.realm, core.is_standalone) == ("example.org", True)
    assert core.listen_ports == {3478, 5349}
    assert not core.policy.under_portal
    assert [credential.password for credential in credentials(found).lookup("alice")] == ["secret"]
    assert len(credentials(found).lookup("2000000000:bob")) == 2
    assert "secret" not in repr(found)


def test_the_keys_behind_a_sharp_can_be_used_as_well(folder: Path) -> None:
    content = EXAMPLE.read_text(encoding="utf-8")
    for key in ("listen", "internal", "alternate"):
        content = content.replace(f"# {key}:", f"{key}:")
    found = config_file.parse(content, base=folder)
    assert found.internal == (ip_address("10.0.0.5"),)
    assert found.alternate == {4: Endpoint.parse("203.0.113.6:3478")}


def test_trusted_proxies_come_from_the_file_or_else_from_the_environment(folder: Path) -> None:
    assert parse(folder).trusted_proxies == ()
    named = parse(folder, trusted_proxies='[10.0.0.7, "2001:db8::/64"]').trusted_proxies
    assert named == (ip_network("10.0.0.7"), ip_network("2001:db8::/64"))
    path = folder / "relay.yaml"
    path.write_text(document(), encoding="utf-8")
    environment = {"POSTERN_TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.1"}
    settings = read_settings(["--config", str(path)], environment)
    assert settings.configuration.trusted_proxies == settings.proxies
    assert settings.proxies == (ip_network("10.0.0.0/8"), ip_network("192.0.2.1"))
    path.write_text(document(trusted_proxies="[10.0.0.7]"), encoding="utf-8")
    assert read_settings(["--config", str(path)], environment).configuration.trusted_proxies == named[:1]


@pytest.mark.parametrize("key", ["requests_per_second_per_source", "connections_per_second_per_source"])
def test_limits_of_a_source_can_be_lifted(folder: Path, key: str) -> None:
    assert getattr(parse(folder, quotas=f"{{{key}: off}}").quotas, key) is None
    assert getattr(parse(folder, quotas=f"{{{key}: 7}}").quotas, key) == 7


def test_defaults(folder: Path) -> None:
    found = parse(folder)
    assert [str(address) for address in found.listen] == ["0.0.0.0:3478", "[::]:3478"]
    assert found.quotas == Quotas(requests_per_second_per_source=100, connections_per_second_per_source=200)
    assert (found.certificate, found.tls_listen, found.offload) == (None, (), None)
    assert not credentials(found).signs_unverified
    assert credentials(found).offers_anonymity
    assert not credentials(parse(folder, rest_secrets="[s]")).offers_anonymity
    assert not credentials(parse(folder, users="", rest_secrets="[s]")).offers_anonymity


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"realm": ""}, "realm is missing: expected a name"),
        ({"realm": "x" * 128}, "expected at most 127 characters"),
        ({"public": ""}, "public has no address: expected ipv4, ipv6 or both"),
        ({"public": "{ipv4: 203.0.113}"}, "public.ipv4 is '203.0.113': expected an IPv4 address"),
        ({"public": "{ipv4: turn.example.org}"}, "public.ipv4 is 'turn.example.org': expected an IPv4 address"),
        ({"public": "{ipv6: 203.0.113.5}"}, "public.ipv6 is '203.0.113.5': expected an IPv6 address"),
        ({"public": "{ipv4: 0.0.0.0}"}, "public.ipv4 is '0.0.0.0': expected an IPv4 address"),
        ({"listen": '["3478"]'}, "listen[0] is '3478': expected address:port"),
        ({"listen": '["0.0.0.0:0"]'}, "expected a port from 1 to 65535"),
        ({"listen": '["0.0.0.0:1", "0.0.0.0:1"]'}, "listen is '0.0.0.0:1': expected each address once"),
        ({"listen": "3478"}, "listen is 3478: expected a list of addresses with ports"),
        ({"listen": "[]"}, "listen is []: expected at least one address with a port"),
        ({"users": ""}, "users and rest_secrets are missing: expected one of them"),
        ({"users": "{}"}, "users and rest_secrets are empty: expected somebody who can use it"),
        ({"users": "", "rest_secrets": "[]"}, "users and rest_secrets are empty"),
        ({"users": "{alice: 1234}"}, "users.'alice' is (hidden): expected texts"),
        ({"users": '{alice: ""}'}, "user 'alice': expected at least one character"),
        ({"users": "[alice]"}, "users is (hidden): expected a mapping of names to passwords"),
        ({"users": "nowhere.yaml"}, "nowhere.yaml': cannot be read: No such file"),
        ({"rest_secrets": "current"}, "rest_secrets is (hidden): expected a list of secrets"),
        ({"rest_secrets": "[12345678]"}, "rest_secrets[0] is (hidden): expected a text"),
        ({"ports": "[50000]"}, "ports is [50000]: expected two ports such as"),
        ({"ports": "[50000, 40000]"}, "expected the first port to be at most the last, which is 40000"),
        ({"ports": "[0, 40000]"}, "ports is [0, 40000]: expected two ports such as"),
        ({"ports": "[1024, 65535]", "ebpf": "{interfaces: [eth0]}"}, "expected at least 32768 with offload on"),
        ({"peers": "{allow: [10.0.0.1/8]}"}, "peers.allow[0] is '10.0.0.1/8'"),
        ({"peers": '{deny: ["10.0.0.0/8:99999"]}'}, "expected ports from 1 to 65535"),
        ({"peers": "{allowed: []}"}, "peers.allowed is not a known key: expected allow, deny"),
        ({"quotas": "{bandwidth: fast}"}, "quotas.bandwidth is 'fast': expected bits per second such as 10M"),
        ({"quotas": "{bandwidth: 10k}"}, "quotas.bandwidth is '10k': expected bits per second"),
        ({"quotas": "{allocations: 0}"}, "quotas.allocations is 0: expected an integer from 1"),
        ({"quotas": "{requests_per_second_per_source: none}"}, "expected an integer from 1 to 1000000000, or off"),
        ({"trusted_proxies": "[10.0.0.1/8]"}, "trusted_proxies[0] is '10.0.0.1/8': expected addresses or ranges"),
        ({"trusted_proxies": "[proxy.example]"}, "expected addresses or ranges such as 10.0.0.5 or 10.0.0.0/24"),
        ({"ebpf": "{mode: native}"}, "ebpf.mode is 'native': expected interfaces with it"),
        ({"ebpf": "{mode: fast}"}, "ebpf.mode is 'fast': expected one of auto, native, generic, off"),
        ({"alternate": '{ipv4: "[::1]:3478"}'}, "alternate.ipv4 is '[::1]:3478': expected an IPv4 address"),
        ({"alternate": '{ipv4: "203.0.113.5:3478"}'}, "alternate.ipv4 is '203.0.113.5:3478': expected another server"),
        ({"tls": "{certificate: none.pem, key: key.pem, listen: []}"}, "No such file or directory"),
        ({"tls": "{certificate: key.pem, key: key.pem}"}, "expected a PEM certificate and the key that belongs to it"),
        ({"tls": "{certificate: cert.pem}"}, "tls.key is missing: expected the path of a PEM file"),
        ({"tls": "{certificate: cert.pem, key: key.pem, listen: []}"}, "tls.listen is []: expected at least one"),
        (
            {"tls": '{certificate: cert.pem, key: key.pem, listen: ["0.0.0.0:3478"]}'},
            "tls.listen is '0.0.0.0:3478': expected an address that listen does not have",
        ),
        ({"realms": "x"}, "realms is not a known key"),
    ],
)
def test_what_is_wrong_is_told_with_path_value_and_expectation(
    folder: Path, entries: dict[str, str], expected: str
) -> None:
    assert expected in "; ".join(problems(folder, **entries))


@pytest.mark.parametrize(
    ("entries", "value"),
    [
        ({"public": "{ipv4: turn.example.org}"}, "turn.example.org"),
        ({"peers": "{deny: [a-b]}"}, "a-b"),
        ({"peers": "{allow: [10.0.0.9-10.0.0.5]}"}, "10.0.0.9-10.0.0.5"),
        ({"peers": '{allow: ["10.0.0.0/8:9-5"]}'}, "10.0.0.0/8:9-5"),
        ({"peers": "{deny: [10.0.0.1/8]}"}, "10.0.0.1/8"),
    ],
)
def test_a_mistake_is_one_and_names_its_value_once(folder: Path, entries: dict[str, str], value: str) -> None:
    (problem,) = problems(folder, **entries)
    assert problem.count(value) == 1


def test_tls_needs_no_address(folder: Path) -> None:
    found = parse(folder, tls="{certificate: cert.pem, key: key.pem}")
    assert [str(address) for address in found.tls_listen] == ["0.0.0.0:5349", "[::]:5349"]


def test_peers_may_be_ranges_from_one_address_to_another(folder: Path) -> None:
    found = parse(folder, peers='{deny: [10.0.0.5-10.0.0.8, "[fd00::1-fd00::2]:53"]}')
    assert [str(rule) for rule in found.peers_deny] == [
        *("10.0.0.5/32", "10.0.0.6/31", "10.0.0.8/32", "[fd00::1/128]:53", "[fd00::2/128]:53")
    ]


def test_all_mistakes_come_at_once_and_none_shows_a_secret(folder: Path) -> None:
    found = problems(folder, realm="", users="{bob: [hush]}", rest_secrets="[{hush: 1}]", ports="1", nosuch="1")
    assert len(found) == 5
    assert "hush" not in "; ".join(found)


@pytest.mark.parametrize(
    ("text", "bits"), [("10M", 10_000_000), ("1.5G", 1_500_000_000), ("64K", 64_000), ("800", 800), (800, 800)]
)
def test_rates_are_decimal(text: object, bits: int) -> None:
    assert config_file.rate(text) == bits


def test_users_may_be_in_a_file_of_their_own_that_others_cannot_read(folder: Path) -> None:
    path = folder / "users.yaml"
    path.write_text("alice: wonder\n")
    path.chmod(0o640)
    assert parse(folder, users="users.yaml").users == {"alice": "wonder"}
    for mode in (0o644, 0o660, 0o604):
        path.chmod(mode)
        (problem,) = problems(folder, users="users.yaml")
        assert "expected a file that others cannot read or change" in problem
    path.chmod(0o600)
    path.write_text("alice: 5\n")
    assert "users.yaml.'alice' is (hidden)" in problems(folder, users="users.yaml")[0]


@pytest.mark.parametrize("key", ["users", "rest_secrets"])
def test_a_file_with_secrets_that_others_can_read_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    path = folder / "relay.yaml"
    for entries, mode, warnings in (
        ({key: {"users": "{alice: hush}", "rest_secrets": "[0123456789abcdef]"}[key]}, 0o644, 1),
        ({key: {"users": "{alice: hush}", "rest_secrets": "[0123456789abcdef]"}[key]}, 0o640, 0),
        ({"users": "users.yaml"}, 0o644, 0),
    ):
        (folder / "users.yaml").write_text("alice: hush\n")
        (folder / "users.yaml").chmod(0o600)
        path.write_text("\n".join(f"{name}: {value}" for name, value in {**LEAST, "users": "", **entries}.items()))
        path.chmod(mode)
        caplog.clear()
        config_file.advise(path, config_file.load(path))
        said = [record.getMessage() for record in caplog.records]
        assert said == ["Others may read users or rest_secrets"] * warnings


def test_only_some_of_it_changes_while_running(folder: Path) -> None:
    before = parse(folder)
    wanted = parse(folder, users="{bob: secret}", ports="[50000, 50001]", quotas="{allocations: 3}", realm="other.org")
    after, kept = before.changed_to(wanted)
    assert (after.users, after.quotas.allocations) == ({"bob": "secret"}, 3)
    assert (after.realm, after.highest_port) == ("example.org", 65_535)
    assert sorted(kept) == ["highest_port", "lowest_port", "realm"]
    tls = '{certificate: cert.pem, key: key.pem, listen: ["0.0.0.0:5349"]}'
    after, kept = before.changed_to(parse(folder, tls=tls))
    assert (after.certificate, sorted(kept)) == (None, ["certificate", "tls_listen"])


def test_a_file_and_a_portal_exclude_each_other_and_the_files_mistakes_come_with_the_others(folder: Path) -> None:
    path = folder / "relay.yaml"
    path.write_text("realm: example.org\n")
    environ = {"FIREZONE_API_URL": "wss://x", "FIREZONE_TOKEN": "t", "LISTEN_PORT": "3479", "RUST_LOG": "loud"}
    environ["POSTERN_EBPF_GENERIC_FROM_PEER"] = "true"
    with pytest.raises(SettingsError) as caught:
        read_settings(["--config", str(path)], environ)
    found = caught.value.problems
    for name in ("FIREZONE_API_URL", "FIREZONE_TOKEN", "LISTEN_PORT", "POSTERN_EBPF_GENERIC_FROM_PEER"):
        assert f"{name} is set together with a file for the relay: expected only one of the two" in found
    assert f"{path}: public has no address: expected ipv4, ipv6 or both" in found
    assert any(problem.startswith("RUST_LOG") for problem in found)
    path.write_text("\n".join(f"{key}: {value}" for key, value in LEAST.items()))
    settings = read_settings(["--config", str(path)], {"HEALTH_CHECK_ADDR": "127.0.0.1:1", "LOG_FORMAT": "json"})
    assert (settings.portal, settings.file, settings.configuration.realm) == (None, path, "example.org")


def test_a_list_of_addresses_fills_the_families_that_the_file_leaves_open(folder: Path) -> None:
    path, listed = folder / "relay.yaml", "198.51.100.1,2001:db8::1,2001:db8::2"
    path.write_text("\n".join(f"{key}: {value}" for key, value in LEAST.items()))
    settings = read_settings(["--config", str(path)], {"POSTERN_PUBLIC_ADDRESSES": listed})
    assert settings.public == {4: ip_address("203.0.113.5"), 6: ip_address("2001:db8::1")}
    path.write_text("realm: example.org\nusers: {alice: secret}")
    settings = read_settings(["--config", str(path)], {"POSTERN_PUBLIC_ADDRESSES": listed})
    assert settings.public == {4: ip_address("198.51.100.1"), 6: ip_address("2001:db8::1")}
    # The same again while running, so that nothing seems to have changed.
    assert settings.configuration.changed_to(config_file.load(path, settings.listed)) == (settings.configuration, [])
