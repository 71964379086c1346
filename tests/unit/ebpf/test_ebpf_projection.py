"""Bindings to map entries: what each binding implies, and that any history ends in what the present bindings imply."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectivity.endpoint import Endpoint, IPAddress
from ebpf import ChannelFlow
from ebpf.layout import FlowKey, FlowValue
from ebpf.projection import Changes, Projection

PUBLIC4: Final = ip_address("203.0.113.7")
INTERNAL4: Final = ip_address("10.0.0.7")
PUBLIC6: Final = ip_address("2001:db8::7")
SOURCES: Final[dict[int, IPAddress]] = {4: INTERNAL4, 6: PUBLIC6}
CLIENT: Final = Endpoint(ip_address("198.51.100.1"), 1000)
CLIENT6: Final = Endpoint(ip_address("2001:db8:1::1"), 1000)
PEER: Final = Endpoint(ip_address("198.51.100.9"), 9000)
PEER6: Final = Endpoint(ip_address("2001:db8:1::9"), 9000)
FLOW: Final = ChannelFlow(CLIENT, 0x4001, PEER, 50_000, 100)
# One and other are bound to each other's relayed address; they meet in the kernel.
ONE: Final = ChannelFlow(CLIENT, 0x4001, Endpoint(PUBLIC4, 50_002), 50_001, 100)
OTHER: Final = ChannelFlow(CLIENT6, 0x4002, Endpoint(PUBLIC4, 50_001), 50_002, 90, listen_port=80)


def _projection(sources: dict[int, IPAddress] | None = None, capacity: int = 100) -> Projection:
    own = (PUBLIC4, PUBLIC6, INTERNAL4)
    sources = SOURCES if sources is None else sources
    public: dict[int, IPAddress] = {4: PUBLIC4, 6: PUBLIC6}
    return Projection(public=public, own=own, sources=sources, capacity=capacity)


def test_a_binding_has_an_entry_each_way() -> None:
    changes = _projection().install(FLOW)
    assert changes == Changes(
        writes=(
            (FlowKey(CLIENT, 0x4001), FlowValue(PEER, 50_000, 0, sender=1, listen_port=3478)),
            (FlowKey(PEER, 50_000), FlowValue(CLIENT, 3478, 0x4001, receiver=1)),
        )
    )


def test_across_families_the_relay_s_own_address_sends() -> None:
    writes = dict(_projection().install(replace(FLOW, peer=PEER6)).writes)
    assert writes[FlowKey(CLIENT, 0x4001)].source == PUBLIC6
    assert writes[FlowKey(PEER6, 50_000)].source == INTERNAL4


def test_without_an_address_in_a_family_that_way_stays_in_user_space() -> None:
    writes = dict(_projection({4: INTERNAL4}).install(replace(FLOW, peer=PEER6)).writes)
    assert list(writes) == [FlowKey(PEER6, 50_000)]


def test_answers_leave_from_the_address_that_the_client_uses() -> None:
    writes = dict(_projection().install(replace(FLOW, local=PUBLIC4)).writes)
    assert writes[FlowKey(PEER, 50_000)].source == PUBLIC4
    assert writes[FlowKey(CLIENT, 0x4001)].source is None


@pytest.mark.parametrize("flows", [(ONE, OTHER), (OTHER, ONE)])
def test_two_clients_meet_whichever_binds_last(flows: tuple[ChannelFlow, ChannelFlow]) -> None:
    projection = _projection()
    assert projection.install(flows[0]) == Changes()
    writes = dict(projection.install(flows[1]).writes)
    one, other = (projection.slot(flow.client, flow.channel) for flow in (ONE, OTHER))
    assert writes == {
        FlowKey(CLIENT, 0x4001): FlowValue(CLIENT6, 80, 0x4002, one, other, PUBLIC6, listen_port=3478),
        FlowKey(CLIENT6, 0x4002): FlowValue(CLIENT, 3478, 0x4001, other, one, INTERNAL4, listen_port=80),
    }


def test_by_an_address_behind_a_nat_one_way_is_open() -> None:
    """What leads there comes from a public address, which the far end has to have bound."""
    projection = _projection()
    projection.install(ONE)
    writes = dict(projection.install(replace(OTHER, peer=Endpoint(INTERNAL4, 50_001))).writes)
    assert list(writes) == [FlowKey(CLIENT6, 0x4002)]


@pytest.mark.parametrize("gone", [ONE, OTHER])
def test_both_ways_between_clients_end_with_either(gone: ChannelFlow) -> None:
    projection = _projection()
    projection.install(ONE)
    projection.install(OTHER)
    deletes = projection.remove(gone.client, gone.channel).deletes
    assert set(deletes) == {FlowKey(CLIENT, 0x4001), FlowKey(CLIENT6, 0x4002)}


def test_a_channel_that_is_bound_anew_leaves_nothing_behind() -> None:
    projection = _projection()
    projection.install(FLOW)
    changes = projection.install(replace(FLOW, peer=PEER6))
    assert FlowKey(PEER, 50_000) in changes.deletes


def test_a_client_bound_under_two_addresses_of_the_relay_keeps_the_way_out_that_is_left() -> None:
    projection = _projection()
    projection.install(ONE)
    projection.install(replace(ONE, channel=0x4003, peer=Endpoint(INTERNAL4, 50_002)))
    assert len(projection.install(OTHER).writes) == 3
    changes = projection.remove(ONE.client, ONE.channel)
    assert set(changes.deletes) == {FlowKey(CLIENT, 0x4001), FlowKey(CLIENT6, 0x4002)}
    assert list(dict(changes.writes)) == [FlowKey(CLIENT, 0x4003)]


def test_an_unknown_binding_is_removed_without_effect() -> None:
    assert _projection().remove(CLIENT, 0x4001) == Changes()


def test_a_refresh_keeps_the_slot_and_an_end_names_it() -> None:
    projection = _projection()
    projection.install(FLOW)
    projection.install(replace(FLOW, channel=0x4002, peer=PEER6))
    assert projection.install(replace(FLOW, expires_at=200)).ended == ()
    assert projection.slot(CLIENT, 0x4001) == 1
    assert projection.remove(CLIENT, 0x4001).ended == (1,)
    assert projection.slot(CLIENT, 0x4001) == 0


def test_room_is_for_so_many_bindings_and_refreshes() -> None:
    projection = _projection(capacity=2)
    second = replace(FLOW, channel=0x4002, peer=PEER6)
    third = replace(FLOW, channel=0x4003, peer=replace_port(PEER))
    for flow in (FLOW, second):
        assert projection.has_room(flow)
        projection.install(flow)
    assert (projection.has_room(third), projection.has_room(FLOW)) == (False, True)
    projection.remove(CLIENT, 0x4001)
    projection.install(third)
    assert projection.slot(CLIENT, 0x4003) == 1


def test_a_free_slot_waits_for_all_others() -> None:
    projection = _projection(capacity=3)
    slots = []
    for channel in (0x4001, 0x4002, 0x4003, 0x4004):
        projection.install(replace(FLOW, channel=channel))
        slots.append(projection.slot(CLIENT, channel))
        projection.remove(CLIENT, channel)
    assert slots == [1, 2, 3, 1]


def replace_port(peer: Endpoint) -> Endpoint:
    return Endpoint(peer.ip, peer.port + 1)


_flows = st.builds(
    ChannelFlow,
    client=st.sampled_from([CLIENT, CLIENT6]),
    channel=st.sampled_from([0x4001, 0x4002]),
    peer=st.sampled_from(
        [PEER, PEER6, *(Endpoint(ip, port) for ip in (PUBLIC4, INTERNAL4, PUBLIC6) for port in (50_000, 50_001))]
    ),
    relayed_port=st.sampled_from([50_000, 50_001]),
    expires_at=st.integers(1, 1000),
)


@given(st.lists(st.tuples(st.booleans(), _flows), max_size=30))
def test_the_map_always_holds_what_the_bindings_imply(history: list[tuple[bool, ChannelFlow]]) -> None:
    projection = _projection()
    kernel: dict[FlowKey, FlowValue] = {}
    for is_install, flow in history:
        changes = projection.install(flow) if is_install else projection.remove(flow.client, flow.channel)
        for key in changes.deletes:
            kernel.pop(key, None)
        kernel.update(changes.writes)
        implied = {key: value for each in projection.flows for key, value in projection.entries(each)}
        assert kernel == implied
        slots = [projection.slot(each.client, each.channel) for each in projection.flows]
        assert len(set(slots)) == len(slots)
        assert 0 not in slots
        assert not set(changes.ended) & {
            slot for value in kernel.values() for slot in (value.sender, value.receiver)
        } - (set(slots))
    for flow in projection.flows:
        for key in projection.remove(flow.client, flow.channel).deletes:
            kernel.pop(key, None)
    assert kernel == {}
    assert len(projection) == 0


def test_a_binding_that_cannot_be_offloaded_is_refused() -> None:
    for channel in (0x3FFF, 0x8000):
        with pytest.raises(ValueError, match="channel"):
            replace(FLOW, channel=channel)
    with pytest.raises(ValueError, match="32768"):
        replace(FLOW, relayed_port=32_767)
    with pytest.raises(ValueError, match="family"):
        replace(FLOW, local=PUBLIC6)
