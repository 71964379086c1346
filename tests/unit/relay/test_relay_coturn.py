"""``postern relay import-coturn``: what a turnserver.conf becomes, and what is said of the rest."""

import stat
from pathlib import Path

import pytest

from connectivity.errors import FatalError
from connectivity.settings import SettingsError
from relay import config_file, import_coturn
from relay.coturn.importing import Imported, convert
from relay.coturn.options import REMARKS, SWITCHES, Kind
from relay.coturn.reading import read_options
from tests.unit.relay.test_relay_config_file import make_certificate

FILE = """\
# A file as they are found.
listening-port = 3479
tls-listening-port 5350
listening-ip=10.0.0.5
listening-ip=2001:db8::5
external-ip=203.0.113.5/10.0.0.5
   min-port=50000
max-port=60000
realm="example.org"
lt-cred-mech
user=alice:pass:word
user=bob:0xbc807ee29df3c9ffa736523fb2c4e8ee
user-quota=12
total-quota=1200
max-bps=125000
bps-capacity=12500000
denied-peer-ip=10.0.0.0-10.255.255.255
allowed-peer-ip=10.0.0.10
psql-userdb="host=localhost password=geheim"
cli-password=qwerty
mobility
dtls=no
no-tlsv1
proc-user=turnserver
verbose
a-new-option=geheim
geheim!with=signs
"""
SECRETS = ("pass:word", "0xbc80", "geheim", "qwerty")


def imported(text: str) -> Imported:
    return convert(read_options(text))


def notes(text: str) -> dict[str, Kind]:
    return {note.option.name: note.kind for note in imported(text).notes}


def test_a_file_becomes_a_document_with_our_units_and_scopes() -> None:
    assert imported(FILE).document == {
        "realm": "example.org",
        "listen": ["10.0.0.5:3479", "[2001:db8::5]:3479"],
        "public": {"ipv4": "203.0.113.5", "ipv6": "2001:db8::5"},
        "internal": {"ipv4": "10.0.0.5"},
        "users": {"alice": "pass:word"},
        "ports": [50000, 60000],
        "peers": {"allow": ["10.0.0.10"], "deny": ["10.0.0.0-10.0.0.9", "10.0.0.11-10.255.255.255"]},
        "quotas": {"allocations_per_user": 12, "allocations": 1200, "bandwidth": "100M"},
    }


def test_each_other_option_is_told_with_what_became_of_it() -> None:
    assert notes(FILE) == {
        "lt-cred-mech": Kind.ALWAYS,
        "user": Kind.NO_EQUAL,
        "max-bps": Kind.NO_EQUAL,
        "bps-capacity": Kind.OTHERWISE,
        "psql-userdb": Kind.NO_EQUAL,
        "cli-password": Kind.ELSEWHERE,
        "mobility": Kind.NO_EQUAL,
        "no-tlsv1": Kind.ALWAYS,
        "proc-user": Kind.ELSEWHERE,
        "verbose": Kind.ELSEWHERE,
        "a-new-option": Kind.UNCLEAR,
        "geheim!with": Kind.UNCLEAR,
    }


def test_a_rate_of_a_session_is_a_users_only_where_he_has_one() -> None:
    assert imported("user-quota=1\nmax-bps=125000").document["quotas"]["bandwidth_per_user"] == "1M"
    (note,) = imported("user-quota=2\nmax-bps=1001").notes
    assert "bandwidth_per_user: 8008" in note.text
    assert "bandwidth_per_user" not in imported("max-bps=1001").document.get("quotas", {})


def test_secrets_are_all_taken_and_then_no_user_counts() -> None:
    found = imported("use-auth-secret\nstatic-auth-secret=one\nstatic-auth-secret=two\nuser=alice:secret")
    assert found.document["rest_secrets"] == ["one", "two"]
    assert "users" not in found.document
    assert [note.option.name for note in found.notes] == ["user"]


@pytest.mark.parametrize(
    "text",
    [
        "use-auth-secret",
        "no-auth",
        "rest-api-separator=-",
        "cert=cert.pem",
        "cert=c.pem\npkey=k.pem\nno-tls",
        "oauth",
        "web-admin",
        "dtls",
        "max-allocate-lifetime=7200",
        "external-ip=203.0.113.5\nexternal-ip=203.0.113.6",
    ],
)
def test_what_cannot_be_said_is_told(text: str) -> None:
    assert Kind.NO_EQUAL in notes(text).values()


@pytest.mark.parametrize("word", ["0", "off", "no", "false", "f"])
def test_a_switch_that_is_off_is_no_matter(word: str) -> None:
    assert notes(f"mobility={word}\ndtls {word}") == {}
    assert imported(f"no-tls={word}\ncert=c.pem\npkey=k.pem").document["tls"] == {
        "certificate": "c.pem",
        "key": "k.pem",
    }


@pytest.mark.parametrize("line", ["listening-port=many", "external-ip=host", "user=alice", "user-quota=-1", "realm="])
def test_a_value_that_makes_no_sense_is_told(line: str) -> None:
    assert [*notes(line).values()] == [Kind.UNCLEAR]


def test_a_range_that_is_not_understood_is_not_left_open_silently() -> None:
    assert any(wish.startswith("peers.deny") for wish in imported("denied-peer-ip=10.0.0.0-private").wishes)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("fc00::/7", "fc00::/7"),
        ("10.0.0.0-10.0.0.9 # the office", "10.0.0.0-10.0.0.9"),
    ],
)
def test_what_coturn_should_have_denied_and_does_not_understand_is_denied_and_told(value: str, expected: str) -> None:
    found = imported(f"denied-peer-ip={value}")
    assert found.document["peers"] == {"deny": [expected]}
    assert [note.kind for note in found.notes] == [Kind.OTHERWISE]
    assert not any(wish.startswith("peers") for wish in found.wishes)


def test_what_follows_a_number_does_not_matter_and_what_follows_a_text_does() -> None:
    """As with coturn 4.6.1, which takes comments on lines of their own only."""
    numbers = "min-port=50000 # low\nmax-port=60000\t# high\nuser-quota=1\nmax-bps=125000   # 1 Mbit\n"
    found = imported(numbers + "user=bob:pw # the contractor")
    assert found.document["ports"] == [50000, 60000]
    assert found.document["quotas"] == {"allocations_per_user": 1, "bandwidth_per_user": "1M"}
    assert found.document["users"] == {"bob": "pw # the contractor"}
    assert [(note.option.name, note.kind) for note in found.notes] == [("user", Kind.OTHERWISE)]
    assert notes("max-bps=1Mbit") == {"max-bps": Kind.UNCLEAR}


def test_allowed_beats_denied_as_with_coturn() -> None:
    text = "denied-peer-ip=::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff\nallowed-peer-ip=2001:db8::/64\n"
    assert notes(text) == {"allowed-peer-ip": Kind.UNCLEAR}  # coturn knows no prefixes either
    text = "denied-peer-ip=0.0.0.0-255.255.255.255\nallowed-peer-ip=0.0.0.0-9.255.255.255\nallowed-peer-ip=11.0.0.1"
    assert imported(text).document["peers"]["deny"] == ["10.0.0.0-11.0.0.0", "11.0.0.2-255.255.255.255"]


def test_the_written_file_serves_and_is_nobody_elses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "etc" / "turnserver.conf", tmp_path / "relay.yaml"
    source.parent.mkdir()
    make_certificate(source.parent, "relay.example.org", [])
    source.write_text(FILE + "cert=cert.pem\npkey=key.pem\n")
    assert import_coturn.run([str(source), "-o", str(target)]) == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    configuration = config_file.load(target)
    assert configuration.users == {"alice": "pass:word"}
    assert configuration.quotas.bandwidth == 100_000_000
    assert [str(endpoint) for endpoint in configuration.tls_listen] == ["10.0.0.5:5350", "[2001:db8::5]:5350"]
    said = capsys.readouterr().out
    assert "line 15, max-bps" in said
    assert "(hidden)" in said
    assert [secret for secret in SECRETS if secret in said] == []
    assert max(map(len, said.replace(str(target), "").splitlines())) <= 80
    with pytest.raises(FatalError, match="exists"):
        import_coturn.run([str(source), "-o", str(target)])


def test_what_is_missing_is_told_and_may_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "turnserver.conf"
    source.write_text("user=alice:secret\nfingerprint\n")
    assert import_coturn.run([str(source), "-o", str(tmp_path / "1.yaml")]) == 1
    said = capsys.readouterr().out
    assert "realm: " in said
    assert "public: " in said
    assert "public has no address" not in said  # that is said already
    given = ["--realm", "example.org", "--public-addresses", "203.0.113.5,2001:db8::5"]
    assert import_coturn.run([str(source), "-o", str(tmp_path / "2.yaml"), *given]) == 0
    assert config_file.load(tmp_path / "2.yaml").realm == "example.org"


def test_all_that_is_missing_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "turnserver.conf"
    source.write_text("realm=example.org\nuser=alice:secret\ncert=none.pem\npkey=none.pem\n")
    assert import_coturn.run([str(source), "-o", str(tmp_path / "relay.yaml")]) == 1
    said = capsys.readouterr().out.partition("Missing before it can serve:\n")[2].splitlines()
    assert [line.split()[0] for line in said] == ["public:", "tls"]


def test_one_file_is_expected() -> None:
    with pytest.raises(SettingsError, match=r"one turnserver\.conf"):
        import_coturn.run([])


def test_every_switch_is_an_option_that_is_known() -> None:
    assert SWITCHES - REMARKS.keys() == {"no-tls", "use-auth-secret"}
