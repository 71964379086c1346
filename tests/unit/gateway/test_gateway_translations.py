"""What proxy addresses stand for."""

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from connectivity.endpoint import IPAddress
from gateway.translations import NameCapacity, Translations

V4 = [ip_address(f"100.96.0.{number}") for number in range(1, 5)]
V6 = [ip_address(f"fd00:2021:1111:8000::{number}") for number in range(4)]
WEB = ip_address("10.0.0.1")
WEB_TOO = ip_address("10.0.0.2")
WEB_V6 = ip_address("2001:db8::1")


def table(limit: int = 8, total: int = 16) -> Translations:
    return Translations(NameCapacity(total), limit=limit)


def reals(names: Translations, proxies: list[IPAddress]) -> list[IPAddress | None]:
    targets = [names.get(proxy) for proxy in proxies]
    return [target and target.real for target in targets]


def test_real_addresses_take_turns_in_sorted_order() -> None:
    names = table()
    names.assign("r", "app.internal", [*reversed(V6), *reversed(V4)], [WEB_V6, WEB_TOO, WEB])
    assert reals(names, V4) == [WEB, WEB_TOO, WEB, WEB_TOO]
    assert reals(names, V6) == [WEB_V6] * 4


def test_a_family_without_addresses_is_unreachable_and_known() -> None:
    names = table()
    names.assign("r", "app.internal", [*V4, *V6], [WEB])
    assert reals(names, V6) == [None] * 4
    target = names.get(V6[0])
    assert target is not None
    assert (target.resource_id, target.domain) == ("r", "app.internal")


def test_a_new_resolution_moves_the_mapping_and_only_a_change_is_news() -> None:
    names = table()
    assert names.assign("r", "app.internal", V4, [WEB])
    assert not names.assign("r", "app.internal", reversed(V4), [WEB])
    assert names.assign("r", "app.internal", V4, [WEB_TOO])
    assert reals(names, V4) == [WEB_TOO] * 4


def test_addresses_that_a_name_no_longer_has_stand_for_nothing() -> None:
    names = table()
    names.assign("r", "app.internal", [*V4, *V6], [WEB])
    assert names.assign("r", "app.internal", V4, [WEB])
    assert reals(names, V6) == [None] * 4
    assert names.get(V6[0]) is None


def test_an_address_for_another_name_or_resource_is_a_renumbering() -> None:
    names = table()
    names.assign("r", "app.internal", V4[:2], [WEB])
    assert not names.is_renumbering("r", "app.internal", V4)
    assert not names.is_renumbering("r", "wiki.internal", V4[2:])
    assert names.is_renumbering("r", "wiki.internal", V4)
    assert names.is_renumbering("s", "app.internal", V4[:1])


def test_names_are_kept_apart_by_resource() -> None:
    names = table()
    names.assign("r", "app.internal", V4[:2], [WEB])
    names.assign("s", "app.internal", V4[2:], [WEB_TOO])
    assert reals(names, V4) == [WEB, WEB, WEB_TOO, WEB_TOO]
    assert names.real_addresses("s") == {WEB_TOO}
    names.forget_resource("r")
    assert names.get(V4[0]) is None
    assert reals(names, V4[2:]) == [WEB_TOO, WEB_TOO]


def test_the_least_recent_name_makes_room() -> None:
    names = table(limit=2)
    for number, domain in enumerate(("a", "b", "a")):
        assert names.make_room("r", domain) == (True, None)
        names.assign("r", domain, [V4[number % 2]], [WEB])
    assert names.make_room("r", "c") == (True, "b")
    assert len(names) == 1


def test_all_clients_share_a_limit_and_nobody_loses_names_to_another() -> None:
    capacity = NameCapacity(1)
    first, second = Translations(capacity), Translations(capacity)
    first.assign("r", "app.internal", V4, [WEB])
    assert second.make_room("r", "app.internal") == (False, None)
    assert len(first) == 1
    assert first.make_room("r", "wiki.internal") == (True, "app.internal")
    assert second.make_room("r", "app.internal") == (True, None)
    second.assign("r", "app.internal", V4, [WEB])
    second.clear()
    assert capacity.used == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("rs"), st.sampled_from("abc"), st.lists(st.sampled_from([*V4, *V6]), min_size=1)),
        max_size=12,
    )
)
def test_every_assigned_address_stands_for_its_name_and_what_counts_is_there(
    assignments: list[tuple[str, str, list[IPAddress]]],
) -> None:
    capacity = NameCapacity(16)
    names = Translations(capacity)
    for resource_id, domain, proxies in assignments:
        if names.is_renumbering(resource_id, domain, proxies):
            names.clear()
        names.assign(resource_id, domain, proxies, [WEB])
        for proxy in proxies:
            target = names.get(proxy)
            assert target is not None
            assert target[:2] == (resource_id, domain)
            assert target.real == (WEB if proxy.version == 4 else None)
        assert capacity.used == len(names)
    for resource_id in "rs":
        names.forget_resource(resource_id)
    assert capacity.used == len(names) == 0
    assert reals(names, [*V4, *V6]) == [None] * 8
