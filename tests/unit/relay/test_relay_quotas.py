"""Allocations and bandwidth: limits per user and in total, and their statistics (RFC 8656 §7.2)."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from connectivity.run import Run
from connectivity.stun import (
    Attribute,
    ChannelNumber,
    Data,
    Lifetime,
    MessageClass,
    Method,
    RequestedTransport,
    XorPeerAddress,
    encode,
)
from relay.core import InstallChannel, Output, Quotas, Relayed, SetBucket, ToClient, ToPeer
from relay.core.quotas import BUCKET_DEPTH, TokenBucket
from relay.core.statistics import QuotaKind
from tests.unit.relay.playbook import PEER4, PUBLIC, Client, RelayUnderTest, channel_message, datagrams, error_code

UDP = RequestedTransport(17)
SALTS = ("bob", "carol")


def refusals(relay: RelayUnderTest) -> dict[QuotaKind, int]:
    return relay.server.statistics().quota_refusals


def alice(relay: RelayUnderTest, number: int) -> Client:
    return Client(relay, f"203.0.113.5:{number}", software="a browser")


def bob(relay: RelayUnderTest, number: int) -> Client:
    return Client(relay, f"203.0.113.6:{number}", software="a browser", salt=SALTS[0])


def messages(count: int, size: int) -> Run:
    return Run(memoryview(channel_message(0x4000, b"x" * size) * count), size + 4)


def moved(outputs: Iterable[Relayed | Output]) -> int:
    return sum(len(datagrams(output)) for output in outputs if isinstance(output, ToClient | ToPeer))


# Allocations.


def test_a_user_over_the_quota_gets_486() -> None:
    relay = RelayUnderTest(quotas=Quotas(allocations_per_user=2))
    first = alice(relay, 1)
    first.allocate()
    alice(relay, 2).allocate()
    assert error_code(alice(relay, 3).call(Method.ALLOCATE, UDP)) == 486
    bob(relay, 1).allocate()
    first.call(Method.REFRESH, Lifetime(0))
    alice(relay, 4).allocate()
    relay.advance(600)
    alice(relay, 5).allocate()
    assert refusals(relay) == {QuotaKind.ALLOCATIONS_PER_USER: 1}


def test_all_users_over_their_quota_get_508() -> None:
    relay = RelayUnderTest(quotas=Quotas(allocations=2))
    alice(relay, 1).allocate()
    bob(relay, 1).allocate()
    assert error_code(bob(relay, 2).call(Method.ALLOCATE, UDP)) == 508
    assert refusals(relay) == {QuotaKind.ALLOCATIONS: 1}


def test_a_refused_or_failed_allocation_counts_for_nobody() -> None:
    relay = RelayUnderTest(quotas=Quotas(allocations_per_user=1), may_bind=False)
    assert error_code(alice(relay, 1).call(Method.ALLOCATE, UDP)) == 508
    relay.may_bind = True
    alice(relay, 2).allocate()


def test_a_new_quota_counts_for_those_who_come() -> None:
    relay = RelayUnderTest()
    clients = [alice(relay, number) for number in range(1, 4)]
    for client in clients[:2]:
        client.allocate()
    relay.quotas = Quotas(allocations_per_user=1)
    relay.reconfigure()
    assert len(relay.open_ports) == 2
    clients[0].call(Method.REFRESH, Lifetime(0))
    assert error_code(clients[2].call(Method.ALLOCATE, UDP)) == 486


def test_when_all_ports_are_taken_there_is_508() -> None:
    relay = RelayUnderTest(lowest_port=50_000, highest_port=50_001)
    holders = [alice(relay, number) for number in (1, 2)]
    for holder in holders:
        holder.allocate()
    assert error_code(alice(relay, 3).call(Method.ALLOCATE, UDP)) == 508
    holders[0].call(Method.REFRESH, Lifetime(0))
    alice(relay, 4).allocate()


# Bandwidth.


def test_each_direction_of_a_user_has_its_bandwidth() -> None:
    """8 kbit/s: a second's worth is there at the start, then ten datagrams of 100 bytes a second."""
    relay = RelayUnderTest(quotas=Quotas(bandwidth_per_user=8000))
    client = alice(relay, 1)
    port = client.allocate()
    client.bind(0x4000, PEER4)
    assert moved(client.send(messages(30, 100))) == 11  # it is overdrawn by at most one
    assert moved(client.send(messages(30, 100))) == 0
    assert moved(relay.from_peer(port, PEER4, Run(memoryview(b"x" * 3000), 100))) == 11
    relay.advance(0.5)
    assert moved(client.send(messages(30, 100))) == 5
    relay.advance(3600)
    statistics = relay.server.statistics()
    excess = 30 * 4 - 11 - 11 - 5
    assert statistics.drops == {reason: excess for reason in statistics.drops if reason.value == "over_quota"}
    assert statistics.quota_refusals == {QuotaKind.BANDWIDTH_PER_USER: excess}
    assert sum(statistics.packets.values()) == 27
    assert sum(statistics.bytes.values()) == 2700


def test_a_run_is_cut_where_a_datagram_ends() -> None:
    relay = RelayUnderTest(quotas=Quotas(bandwidth_per_user=8000))
    client = alice(relay, 1)
    client.allocate()
    client.bind(0x4000, PEER4)
    payloads = [bytes([index]) * 300 for index in range(4)] + [b"short"]
    run = Run(memoryview(b"".join(channel_message(0x4000, payload) for payload in payloads)), 304)
    (output,) = client.send(run)
    assert datagrams(output) == payloads[:4]
    assert relay.drops() == {"over_quota": 1}


def test_allocations_of_a_user_share_and_users_do_not() -> None:
    relay = RelayUnderTest(quotas=Quotas(bandwidth_per_user=8000))
    clients = [alice(relay, 1), alice(relay, 2), bob(relay, 1)]
    for client in clients:
        client.allocate()
        client.bind(0x4000, PEER4)
    assert [moved(client.send(messages(30, 100))) for client in clients] == [11, 0, 11]


def test_the_whole_relay_has_its_bandwidth() -> None:
    relay = RelayUnderTest(quotas=Quotas(bandwidth=8000, bandwidth_per_user=4000))
    assert relay.buckets == {}
    clients = [alice(relay, 1), bob(relay, 1), Client(relay, salt=SALTS[1])]
    for client in clients:
        client.allocate()
        client.bind(0x4000, PEER4)
    assert relay.buckets == {0: 1000, 1: 500, 2: 500, 3: 500}
    assert [moved(client.send(messages(30, 100))) for client in clients] == [6, 5, 0]
    assert refusals(relay) == {QuotaKind.BANDWIDTH_PER_USER: 24 + 24 + 24, QuotaKind.BANDWIDTH: 1 + 6}


def test_data_between_clients_costs_both() -> None:
    relay = RelayUnderTest(quotas=Quotas(bandwidth_per_user=8000))
    left, right = alice(relay, 1), bob(relay, 1)
    left_address, right_address = (Endpoint(PUBLIC[4], client.allocate()) for client in (left, right))
    left.bind(0x4000, right_address)
    right.bind(0x4000, left_address)
    assert moved(left.send(messages(6, 100))) == 6
    assert moved(relay.from_peer(right_address.port, left_address, Run(memoryview(b"x" * 3000), 100))) == 5
    assert moved(left.send(messages(30, 100))) == 0


def test_indications_cost_as_channel_data_does() -> None:
    relay = RelayUnderTest(quotas=Quotas(bandwidth_per_user=8000))
    client = alice(relay, 1)
    port = client.allocate()
    client.call(Method.CREATE_PERMISSION, XorPeerAddress(PEER4))
    attributes: tuple[Attribute, ...] = (XorPeerAddress(PEER4), Data(b"x" * 600))
    indication = encode(Method.SEND, MessageClass.INDICATION, bytes(12), attributes)
    assert [moved(client.send(indication)) for _ in range(4)] == [1, 1, 0, 0]
    assert moved(relay.from_peer(port, PEER4, Run(memoryview(b"x" * 3000), 100))) == 11


def test_what_is_refused_for_another_reason_costs_nothing() -> None:
    relay = RelayUnderTest(quotas=Quotas(bandwidth_per_user=8000))
    client = alice(relay, 1)
    port = client.allocate()
    client.bind(0x4000, PEER4)
    relay.from_peer(port, Endpoint.parse("198.51.100.99:1"), Run(memoryview(b"x" * 3000), 100))
    assert moved(relay.from_peer(port, PEER4, Run(memoryview(b"x" * 3000), 100))) == 11


def test_the_offload_is_told_of_buckets_before_channels() -> None:
    relay = RelayUnderTest(quotas=Quotas(bandwidth_per_user=8000))
    client, other = alice(relay, 1), bob(relay, 1)
    client.allocate()
    outputs = client.send(client.request(Method.CHANNEL_BIND, XorPeerAddress(PEER4), ChannelNumber(0x4000)))
    assert [type(output) for output in outputs] == [InstallChannel, ToClient]
    assert relay.buckets == {1: 1000}
    other.allocate()
    other.bind(0x4000, PEER4)
    assert sorted(installed.bucket for installed in relay.installed.values()) == [1, 2]
    client.call(Method.REFRESH, Lifetime(0))
    relay.quotas = Quotas()
    relay.reconfigure()
    assert [installed.bucket for installed in relay.installed.values()] == [0]
    relay.quotas = Quotas(bandwidth_per_user=80_000, bandwidth=800_000)
    assert isinstance(relay.reconfigure()[0], SetBucket)
    assert relay.buckets == {0: 100_000, 1: 10_000, 2: 1000}
    assert all(installed.bucket for installed in relay.installed.values())
    relay.quotas = Quotas()
    relay.reconfigure()
    assert relay.buckets[0] == 0


def test_both_paths_spend_from_one_bucket() -> None:
    relay = RelayUnderTest(quotas=Quotas(bandwidth_per_user=8000, bandwidth=80_000))
    client, other = alice(relay, 1), bob(relay, 1)
    for each in (client, other):
        each.allocate()
        each.bind(0x4000, PEER4)
    assert moved(client.send(messages(5, 100))) == 5
    memory = [0] * 9  # of the relay's, alice's and bob's bucket: rate, to peers, to clients
    relay.server.share_buckets(memory)
    assert [number > 0 for number in memory] == [False, True, False, False, True, False, False, False, False]
    assert moved(client.send(messages(2, 100))) == 2
    memory[4] += SECOND // 4  # the offload has relayed 250 bytes
    assert [moved(each.send(messages(30, 100))) for each in (client, other)] == [1, 11]
    assert memory[4] > relay.now

    memory[1] = relay.now + 60 * SECOND  # and it uses up what the whole relay has
    assert moved(other.send(messages(1, 100))) == 0
    relay.server.share_buckets(None)
    relay.advance(59)
    memory[:] = [0] * 9
    assert moved(other.send(messages(1, 100))) == 0, "what it has spent is remembered"
    relay.advance(2)
    assert moved(other.send(messages(1, 100))) == 1


def test_a_new_quota_fills_shared_buckets_too() -> None:
    relay = RelayUnderTest(quotas=Quotas(bandwidth_per_user=8000))
    client = alice(relay, 1)
    client.allocate()
    client.bind(0x4000, PEER4)
    memory = [0] * 6
    relay.server.share_buckets(memory)
    assert moved(client.send(messages(30, 100))) == 11
    relay.quotas = Quotas(bandwidth_per_user=16_000)
    relay.reconfigure()
    assert memory[4] == 0
    assert moved(client.send(messages(30, 100))) == 21
    assert memory[4] > relay.now


def test_another_allocation_brings_no_fresh_tokens() -> None:
    relay = RelayUnderTest(quotas=Quotas(bandwidth_per_user=8000))
    relayed = []
    for number in range(1, 5):
        client = alice(relay, number)
        client.allocate()
        client.bind(0x4000, PEER4)
        relayed.append(moved(client.send(messages(30, 100))))
        client.call(Method.REFRESH, Lifetime(0))
    assert relayed == [11, 0, 0, 0]
    assert len(relay.server._accounts) == 0
    assert relay.server.poll_timeout() is None


@pytest.mark.parametrize(("most_buckets", "most_idle"), [(3, 1024), (16_384, 1)])
def test_buckets_of_users_who_left_are_given_to_others(
    monkeypatch: pytest.MonkeyPatch, most_buckets: int, most_idle: int
) -> None:
    monkeypatch.setattr("relay.core.quotas.MOST_BUCKETS", most_buckets)
    monkeypatch.setattr("relay.core.quotas._MOST_IDLE_ACCOUNTS", most_idle)
    relay = RelayUnderTest(quotas=Quotas(bandwidth_per_user=8000))
    for client in (alice(relay, 1), bob(relay, 1)):
        client.allocate()
        client.call(Method.REFRESH, Lifetime(0))
    assert relay.buckets == {1: 1000, 2: 1000}
    relay.buckets.clear()
    newcomer = Client(relay, salt=SALTS[1])
    newcomer.allocate()
    newcomer.bind(0x4000, PEER4)
    assert relay.buckets == {1: 1000}, "told again, for another user"
    assert moved(newcomer.send(messages(30, 100))) == 11


def test_channels_of_a_user_without_a_bucket_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.core.quotas.MOST_BUCKETS", 2)
    relay = RelayUnderTest(quotas=Quotas(bandwidth_per_user=8000))
    for client in (alice(relay, 1), bob(relay, 1)):
        client.allocate()
        client.bind(0x4000, PEER4)
        assert moved(client.send(messages(30, 100))) == 11
    assert [installed.bucket for installed in relay.installed.values()] == [1]


@given(
    rate=st.integers(1, 10**9),
    steps=st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, 1500), st.integers(1, 64)), max_size=30),
)
def test_a_bucket_never_gives_more_than_its_rate_and_depth(rate: int, steps: list[tuple[int, int, int]]) -> None:
    bucket, start = TokenBucket(rate), 10**15
    now, given_bytes, largest = start, 0, 0
    for pause, size, count in steps:
        now += pause
        passing = min(count, bucket.room(size, now))
        bucket.spend(passing * size, now)
        given_bytes += passing * size
        largest = max(largest, size)
        assert given_bytes <= (now - start + BUCKET_DEPTH) * rate // SECOND + largest + len(steps)
