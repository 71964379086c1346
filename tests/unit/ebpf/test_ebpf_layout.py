"""Golden bytes of map keys, values and configuration, as include/abi.h lays them out on a little-endian host."""

import sys
from ipaddress import ip_address
from typing import Final

import pytest

from connectivity.endpoint import Endpoint
from ebpf import layout
from ebpf.layout import Counter, FlowKey, FlowValue, NextHop, pack_config

CLIENT: Final = Endpoint(ip_address("192.0.2.10"), 0x1234)
CLIENT6: Final = Endpoint(ip_address("2001:db8::a"), 0x1234)

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the golden bytes are those of a little-endian host")


def test_keys_are_big_endian() -> None:
    assert FlowKey(CLIENT, 0x4001).pack() == bytes.fromhex("c000020a 1234 4001")
    assert FlowKey(CLIENT6, 0xC350).pack() == bytes.fromhex("20010db8 00000000 00000000 0000000a 1234 c350")
    assert {len(FlowKey(each, 0x4001).pack()) for each in (CLIENT, CLIENT6)} == set(layout.KEY_BYTES.values())


def test_a_flow_echoes_its_key_and_keeps_host_order_for_indices() -> None:
    value = FlowValue(
        Endpoint(ip_address("2001:db8::b"), 0x5678),
        0xC350,
        0x4001,
        0x11223344,
        9,
        ip_address("2001:db8::1"),
        7,
        0x0D96,
    )
    assert value.pack(FlowKey(CLIENT, 0x4002)) == bytes.fromhex(
        "c000020a 00000000 00000000 00000000 1234 4002 c350 5678"
        "20010db8 00000000 00000000 0000000b"
        "20010db8 00000000 00000000 00000001"
        "4001 0600 07000000 44332211 09000000 0d96 0000"
    )


def test_a_binding_is_one_line_of_cache() -> None:
    assert layout.BINDING.itemsize == 64
    assert layout.BINDING.fields is not None
    offsets = {name: field[1] for name, field in layout.BINDING.fields.items()}
    assert offsets == {"expires_at": 0, "bucket": 8, "unused": 12, "to_peer": 16, "to_client": 32, "padding": 48}


def test_no_source_means_all_zero() -> None:
    packed = FlowValue(CLIENT, 1, 0, 2).pack(FlowKey(CLIENT, 0x4001))
    assert len(packed) == layout.FLOW_BYTES
    assert packed[40:56] == bytes(16)


def test_next_hop() -> None:
    packed = NextHop(3, 1500, b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02").pack()
    assert packed == bytes.fromhex("03000000 dc050000 020000000001 020000000002")
    assert len(packed) == layout.NEXT_HOP_BYTES


def test_configuration() -> None:
    own = [ip_address("192.0.2.1"), ip_address("2001:db8::1")]
    packed = pack_config(listen_ports=[3478, 80], from_peer=True, own=own, egress=[2, 5], probe=9)
    assert len(packed) == layout.CONFIG_BYTES
    assert packed[:16] == bytes.fromhex("0d96 0050") + bytes(12)
    assert packed[16:32] == bytes.fromhex("01000000 09000000 02000000 05000000")
    assert packed[32:56] == bytes(24)
    assert packed[56:88] == own[0].packed + bytes(28)
    assert packed[88:] == own[1].packed + bytes(112)


def test_addresses_and_ports_beyond_the_slots_are_left_out() -> None:
    own = [ip_address(f"192.0.2.{number}") for number in range(1, 12)]
    packed = pack_config(listen_ports=range(1, 12), from_peer=False, own=own, egress=[])
    assert len(packed) == layout.CONFIG_BYTES
    assert packed[14:20] == bytes.fromhex("0008 00000000")
    assert packed[84:88] == own[7].packed
    assert packed[88:] == bytes(128)


def test_a_full_table_fits_its_budget() -> None:
    """Both maps full of 131072 entries: key, value and 48 bytes of element, rounded up as the allocator does."""
    per_entry = 192
    assert max(layout.KEY_BYTES.values()) + 4 + layout.FLOW_BYTES + 48 <= per_entry
    assert 2 * 131072 * per_entry == 48 * 1024 * 1024


def test_counters_add_up() -> None:
    assert Counter(1, 2) + Counter(3, 4) == Counter(4, 6)
