"""Resources, pending flows and the token of the client."""

import stat
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from client.pending import INTENT_INTERVAL, PendingFlow
from client.resources import CidrResource, ResourceTable, parse_resources
from client.token import take_token
from connectivity.errors import FatalError
from connectivity.portal.values import MessageError


def resource(resource_id: str, network: str) -> CidrResource:
    return CidrResource(resource_id, resource_id, ip_network(network), ("s",))


def test_the_longest_prefix_wins_then_the_connected_one_then_the_higher_id() -> None:
    table = ResourceTable()
    for entry in (resource("a", "10.0.0.0/8"), resource("b", "10.1.0.0/16"), resource("c", "10.1.0.0/16")):
        table.put(entry)

    def chosen(address: str, *connected: str) -> str | None:
        found = table.choose(ip_address(address), frozenset(connected))
        return None if found is None else found.resource_id

    assert chosen("10.2.0.1") == "a"
    assert chosen("10.1.0.1") == "c"
    assert chosen("10.1.0.1", "b") == "b"
    assert chosen("192.0.2.1") is None
    assert table.networks() == (ip_network("10.0.0.0/8"), ip_network("10.1.0.0/16"))


def test_a_wide_resource_is_not_chosen_for_what_it_does_not_name() -> None:
    table = ResourceTable()
    for entry in (resource("all", "0.0.0.0/0"), resource("all6", "::/0"), resource("named", "169.254.7.0/24")):
        table.put(entry)

    def chosen(address: str) -> str | None:
        found = table.choose(ip_address(address), frozenset())
        return None if found is None else found.resource_id

    assert chosen("192.0.2.1") == "all"
    assert chosen("169.254.7.7") == "named"
    for address in ("169.254.169.254", "224.0.0.22", "ff02::2", "fe80::1", "100.100.111.1"):
        assert chosen(address) is None


def test_a_resource_that_cannot_be_read_does_not_spoil_the_list() -> None:
    good = {
        "type": "cidr",
        "id": "r",
        "name": "n",
        "address": "10.0.0.0/24",
        "gateway_groups": [{"id": "s", "name": "s"}],
    }
    found, problems = parse_resources({"resources": [good | {"address": "10.0.0.1/24"}, {"type": "internet"}, good]})
    assert [entry.resource_id for entry in found] == ["r"]
    assert len(problems) == 2
    with pytest.raises(MessageError):
        parse_resources({"resources": [{"id": "no type"}]})


def test_an_intent_is_repeated_only_after_its_interval() -> None:
    pending = PendingFlow()
    assert pending.wants_intent(0)
    assert not pending.wants_intent(INTENT_INTERVAL - 1)
    assert pending.wants_intent(INTENT_INTERVAL)


def test_the_variable_wins_and_is_taken_out_of_the_environment(tmp_path: Path) -> None:
    environ = {"FIREZONE_TOKEN": " secret "}
    assert take_token(environ, tmp_path / "none") == "secret"
    assert environ == {}


def test_a_missing_token_names_both_places(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match=r"\$FIREZONE_TOKEN or in '.*none'"):
        take_token({}, tmp_path / "none")


@pytest.mark.root
@pytest.mark.parametrize(
    ("mode", "safe"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False), (0o700, False)]
)
def test_a_token_file_must_be_for_its_owner_alone(tmp_path: Path, mode: int, safe: bool) -> None:
    path = tmp_path / "token"
    path.write_text("secret\n")
    path.chmod(mode)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    if safe:
        assert take_token({}, path) == "secret"
    else:
        with pytest.raises(FatalError, match="readable by root only"):
            take_token({}, path)
