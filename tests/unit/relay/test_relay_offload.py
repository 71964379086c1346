"""The projection of channels onto an offload that is a list, and what metrics make of both."""

import asyncio
import errno
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from connectivity.endpoint import Endpoint
from connectivity.errors import FatalError
from connectivity.io.http import HttpCounters
from connectivity.io.metric import render
from connectivity.io.udp_counters import UdpCounters
from ebpf import (
    ChannelFlow,
    Counter,
    Counters,
    Direction,
    FlowCounters,
    OffloadError,
    OffloadSettings,
    Outcome,
    View,
    layout,
)
from relay.configuration import OffloadWish
from relay.core import FiveTuple, InstallChannel, RemoveChannel, SetBucket, quotas
from relay.core.quotas import Numbers
from relay.driver import offload as module
from relay.driver.metrics import Sources, collect
from relay.driver.offload import Fill, FlowCount, Offload, OffloadStatus
from relay.driver.streams import StreamCounters
from tests.unit.relay.playbook import PEER4, SERVER4, Client, RelayUnderTest, channel_message

CLIENT = Endpoint.parse("203.0.113.5:51000")
OTHER_SERVER = Endpoint.parse("192.0.2.99:3478")
WISH = OffloadWish(("eth0",), "auto", (), generic_from_peer=False)


@dataclass
class ListOffload:
    """Stands for ``ebpf.RelayOffload``."""

    mode: str = "native"
    reason: str = ""
    flows: dict[tuple[Endpoint, int], ChannelFlow] = field(default_factory=dict)
    buckets: dict[int, int] = field(default_factory=dict)
    bucket_memory: list[int] = field(default_factory=lambda: [0] * 30)
    capacity: int = 100
    broken: bool = False
    blind: bool = False
    seen: list[View] = field(default_factory=list)
    closed: bool = False
    has_test_due: bool = False

    def install(self, flow: ChannelFlow) -> bool:
        if self.broken:
            raise OSError(errno.EBADF, "map is gone")
        if len(self.flows) >= self.capacity and (flow.client, flow.channel) not in self.flows:
            return False
        self.flows[flow.client, flow.channel] = flow
        return True

    def remove(self, client: Endpoint, channel: int) -> FlowCounters:
        counters = self.flow_counters(client, channel)
        self.flows.pop((client, channel), None)
        return counters

    def flow_counters(self, client: Endpoint, channel: int) -> FlowCounters:
        known = (client, channel) in self.flows
        return FlowCounters(Counter(1, 10), Counter(2, 20)) if known else FlowCounters(Counter(), Counter())

    def set_bucket(self, bucket: int, bytes_per_second: int) -> None:
        self.buckets[bucket] = bytes_per_second

    def __len__(self) -> int:
        return len(self.flows)

    def look(self) -> View:
        if self.blind:
            raise OSError(errno.ENODEV, "interface is gone")
        return View([], frozenset(), {})

    def follow(self, view: View) -> None:
        self.seen.append(view)

    def egress_states(self) -> dict[str, str]:
        return {"eth0": "verified"}

    def counters(self) -> Counters:
        forwarded = {
            Direction.TO_PEER: Counter(10, 1000),
            Direction.TO_CLIENT: Counter(20, 2000),
            Direction.BETWEEN_CLIENTS: Counter(5, 500),
        }
        return Counters(forwarded, {}, {Outcome.PUNT_MTU: Counter(3, 1)}, {Outcome.DROP_REWRITE: Counter(1, 1)})

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def kernel() -> ListOffload:
    return ListOffload()


@pytest.fixture
def offload(kernel: ListOffload) -> Offload:
    return loaded(kernel)


def loaded(kernel: ListOffload, *, listen_ports: tuple[int, ...] = (3478,)) -> Offload:
    offload = Offload("being loaded", OffloadSettings(interfaces=("eth0",)), listen_ports)
    offload.adopt(kernel)  # type: ignore[arg-type] # the methods it uses
    return offload


def installed(channel: int = 0x4000, server: Endpoint = SERVER4, expires_at: int = 5) -> InstallChannel:
    return InstallChannel(FiveTuple(CLIENT, server), channel, PEER4, 50_000, expires_at)


def test_it_follows_the_core(offload: Offload, kernel: ListOffload) -> None:
    offload.install(installed())
    assert kernel.flows[CLIENT, 0x4000] == ChannelFlow(CLIENT, 0x4000, PEER4, 50_000, 5, SERVER4.ip)
    offload.install(installed(expires_at=9))
    assert kernel.flows[CLIENT, 0x4000].expires_at == 9
    offload.remove(RemoveChannel(FiveTuple(CLIENT, SERVER4), 0x4000))
    assert not kernel.flows


def test_one_channel_on_two_of_our_addresses_is_on_neither(offload: Offload, kernel: ListOffload) -> None:
    offload.install(installed())
    offload.install(installed(server=OTHER_SERVER))
    assert not kernel.flows
    offload.remove(RemoveChannel(FiveTuple(CLIENT, OTHER_SERVER), 0x4000))
    offload.install(installed(expires_at=9))
    assert kernel.flows[CLIENT, 0x4000].local == SERVER4.ip


def test_a_full_table_costs_speed_only_and_is_said_once(
    offload: Offload, kernel: ListOffload, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.capacity = 1
    for channel in (0x4000, 0x4001, 0x4000, 0x4002):
        offload.install(installed(channel))
    assert not kernel.closed
    assert offload.fill() == Fill(channels=1, capacity=1, refused=2)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    offload.remove(RemoveChannel(FiveTuple(CLIENT, SERVER4), 0x4001))


def test_counts_of_a_channel_are_live_and_told_at_its_end(offload: Offload) -> None:
    five_tuple = FiveTuple(CLIENT, SERVER4)
    offload.install(installed())
    assert offload.flow_counters(five_tuple, 0x4000) == FlowCount(1, 10, 2, 20)
    assert offload.flow_counters(FiveTuple(CLIENT, OTHER_SERVER), 0x4000) == FlowCount()
    assert offload.remove(RemoveChannel(five_tuple, 0x4000)) == FlowCount(1, 10, 2, 20)
    assert offload.flow_counters(five_tuple, 0x4000) == offload.remove(RemoveChannel(five_tuple, 0x4000)) == FlowCount()


def test_buckets_come_before_the_channels_that_name_them(offload: Offload, kernel: ListOffload) -> None:
    offload.set_bucket(SetBucket(3, 1000))
    offload.install(replace(installed(), bucket=3))
    assert kernel.buckets == {3: 1000}
    assert kernel.flows[CLIENT, 0x4000].bucket == 3


def test_token_buckets_are_shared_until_the_program_goes(offload: Offload, kernel: ListOffload) -> None:
    given: list[Numbers | None] = []
    Offload("none").share_buckets(given.append)
    assert given == []
    offload.share_buckets(given.append)
    assert given == [kernel.bucket_memory]
    kernel.broken = True
    offload.install(installed())
    assert given == [kernel.bucket_memory, None]
    offload.close()
    assert len(given) == 2


def test_both_paths_have_the_same_idea_of_a_bucket() -> None:
    assert (quotas.MOST_BUCKETS, quotas.WHOLE_RELAY) == (layout.BUCKETS, layout.WHOLE_RELAY)
    assert layout.BUCKET.size == quotas.NUMBERS_OF_BUCKET * 8
    header = Path(layout.__file__).parent.joinpath("include", "abi.h").read_text(encoding="utf-8")
    assert f"#define BUCKET_DEPTH_NS {quotas.BUCKET_DEPTH}ULL" in header


def test_each_listen_port_that_the_program_knows_is_offloaded(kernel: ListOffload) -> None:
    offload = loaded(kernel, listen_ports=(3478, 80))
    http, other = (Endpoint(SERVER4.ip, port) for port in (80, 3479))
    offload.install(installed(server=other))
    assert not kernel.flows
    assert offload.remove(RemoveChannel(FiveTuple(CLIENT, other), 0x4000)) == FlowCount()
    offload.install(installed(server=http))
    assert kernel.flows[CLIENT, 0x4000].listen_port == 80
    offload.install(installed())
    assert not kernel.flows, "one channel number on two ports: the program could not tell them apart"


def test_totals_outlive_the_program(offload: Offload) -> None:
    before = offload.counters()
    assert before is not None
    offload.close()
    assert offload.counters() == before
    assert offload.fill() is None


def test_a_kernel_that_fails_is_let_go(offload: Offload, kernel: ListOffload) -> None:
    kernel.broken = True
    offload.install(installed())
    assert kernel.closed
    assert offload.status().mode == "off"
    assert "map is gone" in offload.status().reason
    offload.install(installed())
    asyncio.run(offload.maintain())
    offload.remove(RemoveChannel(FiveTuple(CLIENT, SERVER4), 0x4000))
    offload.close()


def test_it_follows_the_host_until_there_is_nothing_to_see(offload: Offload, kernel: ListOffload) -> None:
    asyncio.run(offload.maintain())
    assert kernel.seen == [View([], frozenset(), {})]
    kernel.has_test_due = True
    asyncio.run(offload.maintain())
    assert len(kernel.seen) == 3, "an interface that came back is tested at once, and not for ever"
    kernel.blind = True
    asyncio.run(offload.maintain())
    assert kernel.closed
    assert "interface is gone" in offload.status().reason


def test_what_came_while_it_was_loaded_is_offloaded_then(kernel: ListOffload) -> None:
    offload = Offload("being loaded", OffloadSettings(interfaces=("eth0",)))
    given: list[Numbers | None] = []
    offload.share_buckets(given.append)
    assert offload.status().is_loading
    offload.set_bucket(SetBucket(3, 500))
    offload.set_bucket(SetBucket(3, 1000))
    offload.install(installed(expires_at=5))
    offload.install(installed(expires_at=9))
    offload.install(installed(0x4001))
    assert offload.remove(RemoveChannel(FiveTuple(CLIENT, SERVER4), 0x4001)) == FlowCount()
    offload.install(installed(0x4002))
    offload.install(installed(0x4002, OTHER_SERVER))
    offload.adopt(kernel)  # type: ignore[arg-type] # the methods it uses
    assert {channel: flow.expires_at for (_, channel), flow in kernel.flows.items()} == {0x4000: 9}
    assert kernel.buckets == {3: 1000}
    assert given == [kernel.bucket_memory]
    assert not offload.status().is_loading
    offload.remove(RemoveChannel(FiveTuple(CLIENT, OTHER_SERVER), 0x4002))
    offload.install(installed(0x4002))
    assert set(kernel.flows) == {(CLIENT, 0x4000), (CLIENT, 0x4002)}


def test_a_program_that_comes_too_late_is_closed(kernel: ListOffload) -> None:
    offload = Offload("being loaded", OffloadSettings(interfaces=("eth0",)))
    offload.install(installed())
    offload.close()
    offload.adopt(kernel)  # type: ignore[arg-type] # the methods it uses
    assert kernel.closed
    assert not kernel.flows


def test_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[OffloadSettings] = []

    def make(settings: OffloadSettings) -> ListOffload:
        made.append(settings)
        if settings.mode == "native":
            raise OffloadError("native mode is refused")
        return ListOffload("off", "no headers") if settings.interfaces == ("lo",) else ListOffload()

    def find(names: tuple[str, ...]) -> None:
        if names == ("nosuch0",):
            raise OffloadError("no such network interface: nosuch0")

    def load(wish: OffloadWish | None, listen_ports: Sequence[int] = (3478, 80, 3478)) -> OffloadStatus:
        offload = Offload.prepare(wish, public, listen_ports)
        asyncio.run(offload.load())
        return offload.status()

    ebpf = module._ebpf()
    monkeypatch.setattr(ebpf, "RelayOffload", make)
    monkeypatch.setattr(ebpf, "find_interfaces", find)
    public = {4: ip_address("192.0.2.10")}
    assert load(None).reason == "not asked for"
    assert not made
    assert load(WISH).egress == {"eth0": "verified"}
    assert (made[0].public, made[0].mode, made[0].listen_ports) == ((public[4],), "auto", (3478, 80))
    assert load(OffloadWish(("lo",), "auto", (), False)).reason == "no headers"
    load(WISH, range(1, 12))
    assert made[-1].listen_ports == tuple(range(1, 9)), "no more than it has room for"
    with pytest.raises(FatalError):
        load(OffloadWish(("eth0",), "native", (), False))
    with pytest.raises(FatalError):
        Offload.prepare(OffloadWish(("nosuch0",), "auto", (), False), public, [3478])


def test_metrics_add_both_paths_up(offload: Offload) -> None:
    relay = RelayUnderTest()
    client = Client(relay)
    client.allocate()
    client.bind(0x4000, PEER4)
    client.send(channel_message(0x4000, b"12345"))
    client.send(channel_message(0x4001, b"12345"))
    sources = Sources(offload, UdpCounters(send_errors=4), StreamCounters(refused=2), 3, HttpCounters(timed_out=5))
    rows = render(collect(relay.server.statistics(), sources)).splitlines()
    for row in (
        'postern_relay_packets_total{path="python",direction="to_peer"} 1',
        'postern_relay_bytes_total{path="python",direction="to_peer"} 5',
        'postern_relay_packets_total{path="xdp",direction="to_peer"} 10',
        'postern_relay_packets_total{path="xdp",direction="to_client"} 25',
        'postern_relay_bytes_total{path="xdp",direction="to_client"} 2500',
        "postern_relay_allocations 1",
        "postern_relay_channels 1",
        'postern_relay_responses_total{response_class="success",message_type="allocate",error_code=""} 1',
        'postern_relay_responses_total{response_class="error",message_type="allocate",error_code="401"} 1',
        'postern_relay_drops_total{path="python",reason="no_channel"} 1',
        'postern_relay_drops_total{path="xdp",reason="rewrite"} 1',
        'postern_relay_xdp_passed_total{reason="mtu"} 3',
        'postern_relay_socket_errors_total{kind="send"} 4',
        'postern_relay_http_events_total{event="timed_out"} 5',
        'postern_relay_offload{mode="native"} 1',
        'postern_relay_xdp_egress{interface="eth0",state="verified"} 1',
    ):
        assert row in rows
    assert not any("203.0.113" in row for row in rows)
