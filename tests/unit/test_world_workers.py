"""What holds for a gateway holds for one with workers: the same tests, the gateway another."""

from ipaddress import ip_address

import pytest

from connectivity.clock import MILLISECOND, SECOND
from connectivity.data_path import messages
from connectivity.endpoint import Endpoint
from connectivity.io.workers import steering
from connectivity.run import Received, Run
from tests.unit import test_world, test_world_fragments, test_world_icmp, test_world_names, world
from tests.unit.worker_gateway import WorkerGateway

# It seals with a session of the gateway's core, which a worker has here.
_REACHES_INSIDE = "test_a_gateway_may_not_answer_from_names_of_other_gateways_resources"

for _module in (test_world, test_world_fragments, test_world_icmp, test_world_names):
    globals().update({name: test for name, test in vars(_module).items() if name.startswith("test_")})


del globals()[_REACHES_INSIDE]


@pytest.fixture(autouse=True)
def _workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "GatewayCore", WorkerGateway)


def test_nothing_passes_a_worker_once_access_is_rejected() -> None:
    built = test_world.connected()
    gateway = built.gateway
    assert isinstance(gateway, WorkerGateway)
    flows = [worker._flows for worker in gateway.workers if worker is not None]
    built.send_from_client(test_world.question(b"second"))
    built.advance(SECOND)
    assert len(built.host_received["gateway"]) == 2
    assert sum(map(len, flows)) == 1
    built.to_gateway("reject_access", {"client_id": "c-1", "resource_id": "r-1"})
    gateway.poll_transmit()  # the messages that were sent in that call are read before any datagram
    assert sum(map(len, flows)) == 0
    built.send_from_client(test_world.question(b"third"))
    built.advance(100 * MILLISECOND)
    assert len(built.host_received["gateway"]) == 2


def test_a_download_outlives_its_worker_and_the_next_one() -> None:
    """The client refuses what it has seen, and takes what jumps ahead; so does whoever goes on for the worker."""
    built = test_world.connected()
    gateway = built.gateway
    assert isinstance(gateway, WorkerGateway)
    (index,) = (peer.index for peer in gateway.lending._slots.values())
    number = steering.owner(index << 8, gateway.worker_count)
    for step in range(6):
        peer = gateway.lending.peer(index)
        assert peer is not None
        assert (peer.worker is not None) is (step % 2 == 0)
        for part in range(3):
            built.send_from_client(test_world.question(b"%d" % part))
            built.send_from_gateway(test_world.answer(b"%d" % part))
        built.advance(SECOND)
        assert len(built.host_received["client"]) == 3 * (step + 1)
        assert len(built.host_received["gateway"]) == 3 * (step + 1) + 1
        (gateway.revive if step % 2 else gateway.kill)(number)


def test_sessions_are_renewed_while_workers_carry_data() -> None:
    built = test_world.connected()
    for second in range(400):
        built.send_from_client(test_world.question(b"%d" % second))
        built.send_from_gateway(test_world.answer(b"%d" % second))
        built.advance(SECOND)
    assert len(built.host_received["client"]) == 400
    assert len(built.host_received["gateway"]) == 401
    (connection,) = built.gateway.connections()
    assert connection.handshake_at is not None
    assert built.now - connection.handshake_at < 121 * SECOND
    assert (connection.sent_bytes, connection.state) > (400 * 28, "connected")


def test_what_the_core_hands_to_a_worker_never_comes_back() -> None:
    """A worker that does not know what a relay's channel is would have the core hand it the same for ever."""
    built = test_world.connected(direct=False)
    gateway = built.gateway
    assert isinstance(gateway, WorkerGateway)
    (peer,) = gateway.lending._slots.values()
    number = steering.owner(peer.index << 8, gateway.worker_count)
    for _ in range(2):  # the core's own for a moment, which learns of channels then
        gateway.kill(number)
        built.send_from_client(test_world.question(b"to the core"))
        built.advance(SECOND)
        gateway.revive(number)
        built.send_from_client(test_world.question(b"to the worker"))
        built.advance(SECOND)
    assert len(built.host_received["gateway"]) == 5
    worker = gateway.workers[number]
    assert worker is not None
    worker._data_path._channels.clear()
    strange = Received(peer_address(), peer_address(), Run.single(bytearray(4) + worker_message(peer.index)))
    worker.handle_message(messages.Datagrams(strange.local, strange.remote, 0, True, strange.run), built.now)
    assert worker.counts["dropped"] == 1
    assert not gateway.queues[number].outbox


def peer_address() -> Endpoint:
    return Endpoint(ip_address("192.0.2.1"), 3478)


def worker_message(index: int) -> bytes:
    return bytes((0x40, 0, 0, 0)) + (index << 8).to_bytes(4, "little") + bytes(40)
