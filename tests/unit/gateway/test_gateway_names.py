"""Names that clients set up at the gateway, and what ends with what."""

from ipaddress import ip_address
from uuid import UUID

import pytest

from connectivity import p2p
from connectivity.clock import SECOND
from gateway import resolutions
from gateway.peers import RENEWAL_NS
from gateway.resolutions import LOOKUPS, RESOLUTION_LIMIT
from tests.unit.gateway.gateway_stage import (
    ACK,
    ACTIVE,
    DNS,
    FIN,
    INACTIVE,
    LAN,
    OWN,
    PROXIES,
    PROXIES_V4,
    PROXY,
    REAL,
    RST,
    SYN,
    TCP,
    UDP,
    V4,
    Stage,
    addresses_of,
    key,
    packet,
)


def test_a_name_is_looked_up_once_put_in_force_and_told() -> None:
    stage = Stage()
    assert stage.assign("App.Internal") == []
    assert stage.assign("App.Internal") == []
    assert stage.lookups == ["app.internal"]
    assert stage.resolve("app.internal", REAL) == [p2p.DomainStatus(DNS, "App.Internal", True)]
    assert [key(data) for data in stage.from_client(packet(TCP, V4, PROXY))] == [(V4, REAL, 5000, 80)]


@pytest.mark.parametrize(
    ("domain", "resource", "proxies"),
    [
        ("app.internal", UUID(int=7), PROXIES),  # no such resource
        ("app.internal", LAN, PROXIES),  # a network
        ("app.example", DNS, PROXIES),  # another name
        (f"{'a' * 60}." * 5 + "internal", DNS, PROXIES),  # no name at all
        ("app.internal", DNS, PROXIES[:3]),
        ("app.internal", DNS, PROXIES_V4[:1] * 4),
        ("app.internal", DNS, (*PROXIES_V4[:3], ip_address("10.0.0.5"))),
        ("app.internal", DNS, (*PROXIES_V4[:3], ip_address("100.100.111.1"))),  # a DNS server's
        ("app.internal", DNS, (*PROXIES_V4[:3], ip_address(OWN[0]))),
    ],
)
def test_what_the_client_may_not_have_is_refused_at_once(
    domain: str, resource: UUID, proxies: tuple[object, ...]
) -> None:
    stage = Stage(DNS, LAN)
    message = p2p.build(p2p.AssignedIps(resource, domain, PROXIES))
    if proxies != PROXIES:
        text = ",".join(f'"{address}"' for address in proxies)
        body = f'{{"resource":"{resource}","domain":"{domain}","proxy_ips":[{text}]}}'.encode()
        message = message[:4] + (8 + len(body)).to_bytes(2, "big") + message[6:48] + body
    stage.from_client(message)
    assert [p2p.parse(data) for _, data in stage.node.sent] == [p2p.DomainStatus(resource, domain, False)]
    assert stage.lookups == []
    assert stage.drops == {"name_refused": 1}


def test_a_failed_look_up_leaves_what_stands() -> None:
    stage = Stage()
    stage.set_up(REAL)
    stage.assign()
    assert stage.resolve("app.internal", failed=True) == [INACTIVE]
    assert [key(data)[1] for data in stage.from_client(packet(TCP, V4, PROXY))] == [REAL]
    assert stage.drops == {"name_unresolved": 1}


def test_access_that_ended_meanwhile_is_not_given_by_the_answer() -> None:
    stage = Stage(DNS, LAN)
    stage.assign()
    stage.portal("reject_access", {"client_id": "client", "resource_id": str(DNS)})
    assert stage.resolve("app.internal", REAL) == [INACTIVE]
    assert stage.from_client(packet(TCP, V4, PROXY)) == []


def test_the_sites_dns_is_asked_for_names_of_granted_resources_only() -> None:
    stage = Stage(DNS, LAN)
    ipv4, ipv6 = map(ip_address, addresses_of("client"))
    for own in (ipv4, ipv6):
        assert stage.core.may_ask(own, "App.Internal")
        assert not stage.core.may_ask(own, "app.example")
    assert not stage.core.may_ask(ip_address("100.64.0.77"), "app.internal")
    stage.portal("reject_access", {"client_id": "client", "resource_id": str(DNS)})
    assert not stage.core.may_ask(ipv4, "app.internal")


def test_an_answer_for_a_client_that_left_goes_nowhere() -> None:
    stage = Stage()
    stage.assign()
    stage.from_client(p2p.build(p2p.Goodbye()))
    assert stage.resolve("app.internal", REAL) == []


def test_each_client_has_translations_of_its_own() -> None:
    stage = Stage(clients=2)
    for client_id in ("client", "client-2"):
        stage.assign(client_id=client_id)
    assert stage.lookups == ["app.internal"]
    assert stage.resolve("app.internal", REAL) == [ACTIVE, ACTIVE]
    assert [peer_id for peer_id, _ in stage.node.sent] == ["client", "client-2"]
    stage.portal("reject_access", {"client_id": "client-2", "resource_id": str(DNS)})
    assert len(stage.from_client(packet(TCP, V4, PROXY))) == 1


def test_one_client_cannot_have_names_looked_up_without_end() -> None:
    stage = Stage(clients=2)
    for number in range(LOOKUPS.burst + 50):
        stage.assign(f"n{number}.internal")
    assert len(stage.lookups) == LOOKUPS.burst
    assert stage.drops == {"name_over_budget": 50}
    stage.assign("other.internal", client_id="client-2")
    assert stage.lookups[-1] == "other.internal"
    stage.advance(2 * SECOND)
    stage.assign("later.internal")
    assert len(stage.lookups) == LOOKUPS.burst + 2


def test_a_look_up_without_an_answer_is_given_up() -> None:
    stage = Stage()
    stage.assign()
    stage.advance(RESOLUTION_LIMIT + SECOND)
    assert [p2p.parse(data) for _, data in stage.node.sent] == [INACTIVE]
    stage.assign()
    assert stage.lookups == ["app.internal"] * 2
    assert stage.resolve("app.internal", REAL) == [ACTIVE]


def test_state_lives_across_connections() -> None:
    stage = Stage()
    stage.set_up(REAL)
    stage.from_client(packet(TCP, V4, PROXY))
    stage.core.role.peer_failed("client")
    stage.authorize(DNS)
    assert [key(data)[0] for data in stage.from_host(packet(TCP, REAL, V4, (80, 5000)))] == [str(PROXY)]


@pytest.mark.parametrize("late", [False, True])
def test_under_a_new_key_a_session_goes_on_once_its_access_is_given_again(late: bool) -> None:
    stage = Stage()
    stage.set_up(REAL)
    stage.from_client(packet(TCP, V4, PROXY))
    stage.authorize(LAN, number=1)
    answer = packet(TCP, REAL, V4, (80, 5000))
    assert stage.from_host(answer) == []  # until then it carries nothing, either way
    assert stage.from_client(packet(TCP, V4, PROXY)) == []
    if late:
        stage.advance(RENEWAL_NS)
    stage.authorize(DNS, number=1)
    assert [key(data)[0] for data in stage.from_host(answer)] == ([] if late else [str(PROXY)])


def test_what_another_key_had_can_be_taken_back_meanwhile() -> None:
    stage = Stage()
    stage.set_up(REAL)
    stage.from_client(packet(TCP, V4, PROXY))
    stage.authorize(LAN, number=1)
    stage.portal("reject_access", {"client_id": "client", "resource_id": str(DNS)})
    stage.authorize(DNS, number=1)
    assert stage.from_host(packet(TCP, REAL, V4, (80, 5000))) == []


def test_a_goodbye_ends_everything() -> None:
    stage = Stage()
    stage.set_up(REAL)
    stage.from_client(packet(TCP, V4, PROXY))
    stage.from_client(p2p.build(p2p.Goodbye()))
    assert stage.from_client(packet(TCP, V4, PROXY)) == []
    assert stage.from_host(packet(TCP, REAL, V4, (80, 5000))) == []
    stage.authorize(DNS)
    assert stage.from_client(packet(TCP, V4, PROXY)) == []
    assert stage.from_host(packet(TCP, REAL, V4, (80, 5000))) == []


def test_a_client_that_numbers_its_names_anew_starts_with_nothing(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.set_up(REAL)
    stage.from_client(packet(TCP, V4, PROXY))
    with caplog.at_level("INFO"):
        stage.set_up("10.0.0.6", domain="wiki.internal", proxies=PROXIES[1:5])
    assert [record.getMessage() for record in caplog.records] == ["Client has numbered its names anew"]
    assert stage.from_host(packet(TCP, REAL, V4, (80, 5000))) == []
    assert stage.from_client(packet(TCP, V4, PROXY)) == []
    assert [key(data)[1] for data in stage.from_client(packet(TCP, V4, PROXIES[1]))] == ["10.0.0.6"]


@pytest.mark.parametrize("how", ["rejected", "expired", "left out"])
def test_sessions_end_at_once_with_the_access_that_they_rest_on(how: str) -> None:
    stage = Stage(LAN)
    stage.authorize(DNS, expires_in=60)
    stage.set_up("10.1.0.5")
    stage.from_client(packet(TCP, V4, PROXY))
    stage.from_client(packet(TCP, V4, "10.0.0.9"))
    assert len(stage.from_host(packet(TCP, "10.1.0.5", V4, (80, 5000)))) == 1
    match how:
        case "rejected":
            stage.portal("reject_access", {"client_id": "client", "resource_id": str(DNS)})
        case "expired":
            stage.advance(61 * SECOND)
        case _:
            row = {"client_id": "client", "resource_id": str(LAN), "expires_at": 1 << 40}
            interface = {"ipv4": OWN[0], "ipv6": OWN[1]}
            stage.portal("init", {"interface": interface, "relays": [], "authorizations": [row]})
    assert stage.from_host(packet(TCP, "10.1.0.5", V4, (80, 5000))) == []
    assert stage.from_client(packet(TCP, V4, PROXY)) == []
    assert len(stage.from_client(packet(TCP, V4, "10.0.0.9"))) == 1
    stage.authorize(DNS)
    assert stage.from_client(packet(TCP, V4, PROXY)) == []  # until the name is set up again


def test_an_extended_access_keeps_its_sessions() -> None:
    stage = Stage(LAN)
    stage.authorize(DNS, expires_in=60)
    stage.set_up("10.1.0.5")
    stage.from_client(packet(TCP, V4, PROXY))
    stage.from_host(packet(TCP, "10.1.0.5", V4, (80, 5000)))
    update = {"client_id": "client", "resource_id": str(DNS), "expires_at": 1 << 40}
    stage.portal("access_authorization_expiry_updated", update)
    stage.advance(61 * SECOND)
    assert len(stage.from_host(packet(TCP, "10.1.0.5", V4, (80, 5000)))) == 1


def test_a_late_answer_is_dropped_and_not_taken_for_one_of_a_network() -> None:
    stage = Stage(DNS, LAN)
    stage.set_up(REAL)
    stage.from_client(packet(UDP, V4, PROXY))
    stage.advance(61 * SECOND)
    assert stage.from_host(packet(UDP, REAL, V4, (80, 5000))) == []
    assert stage.drops == {"nat_expired": 1}
    assert [key(data)[1] for data in stage.from_client(packet(UDP, V4, REAL))] == [REAL]  # by address, not by name
    assert [key(data)[0] for data in stage.from_host(packet(UDP, REAL, V4, (80, 5000)))] == [REAL]


def test_traffic_either_way_keeps_a_session_and_silence_ends_it() -> None:
    stage = Stage()
    stage.set_up(REAL)
    stage.from_client(packet(UDP, V4, PROXY))
    for _ in range(5):
        stage.advance(100 * SECOND if _ else 50 * SECOND)
        assert len(stage.from_host(packet(UDP, REAL, V4, (80, 5000)))) == 1
    stage.set_up("10.0.0.6")
    stage.advance(119 * SECOND)
    assert [key(data)[1] for data in stage.from_client(packet(UDP, V4, PROXY))] == [REAL]
    stage.advance(121 * SECOND)
    assert [key(data)[1] for data in stage.from_client(packet(UDP, V4, PROXY))] == ["10.0.0.6"]


def test_a_reset_passes_and_ends_the_session() -> None:
    stage = Stage()
    stage.set_up(REAL)
    stage.from_client(packet(TCP, V4, PROXY, flags=SYN))
    (reset,) = stage.from_host(packet(TCP, REAL, V4, (80, 5000), flags=RST | ACK))
    assert key(reset)[0] == str(PROXY)
    stage.set_up("10.0.0.6")
    stage.advance(SECOND)
    assert [key(data)[1] for data in stage.from_client(packet(TCP, V4, PROXY, flags=SYN))] == ["10.0.0.6"]


def test_a_connection_closed_by_both_sides_ends_five_seconds_later() -> None:
    stage = Stage()
    stage.set_up(REAL)
    for flags in (SYN, FIN | ACK):
        stage.from_client(packet(TCP, V4, PROXY, flags=flags))
        stage.from_host(packet(TCP, REAL, V4, (80, 5000), flags=flags | ACK))
    stage.advance(5 * SECOND)
    assert len(stage.from_client(packet(TCP, V4, PROXY))) == 1
    stage.advance(2 * SECOND)
    assert stage.from_host(packet(TCP, REAL, V4, (80, 5000))) == []


def test_a_name_that_made_room_for_another_keeps_its_sessions() -> None:
    stage = Stage()
    stage.core.role._shared.names.limit = 1
    stage.set_up(REAL, proxies=PROXIES[:4])
    stage.from_client(packet(TCP, V4, PROXY))
    stage.set_up("10.0.0.6", domain="wiki.internal", proxies=PROXIES[4:])
    assert [key(data)[1] for data in stage.from_client(packet(TCP, V4, PROXY))] == [REAL]
    stage.advance(SECOND)
    assert [key(data)[0] for data in stage.from_host(packet(TCP, REAL, V4, (80, 5000)))] == [str(PROXY)]
    assert stage.from_client(packet(TCP, V4, PROXY, (5001, 80))) == []
    assert stage.drops == {"name_forgotten": 1, "filtered": 1}


def test_who_has_no_name_gets_none_where_all_places_are_taken() -> None:
    stage = Stage(clients=2)
    stage.core.role._shared.names.limit = 1
    stage.set_up(REAL)
    stage.assign(client_id="client-2")
    assert stage.resolve("app.internal", REAL) == [INACTIVE]
    assert stage.drops == {"names_full": 1}
    assert len(stage.from_client(packet(TCP, V4, PROXY))) == 1


def test_so_many_wait_for_look_ups_and_the_next_one_has_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolutions, "MAX_WAITING", 1)
    stage = Stage(clients=2)
    stage.assign("a.internal")
    stage.assign("b.internal", client_id="client-2")
    assert (stage.lookups, stage.drops) == (["a.internal"], {"names_full": 1})
    stage.resolve("a.internal", REAL)
    stage.assign("b.internal", client_id="client-2")
    assert stage.lookups == ["a.internal", "b.internal"]
