"""aioice's agents meet through a stand-alone relay: relayed candidates only, each transport to the relay."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

import pytest
from aioice import Connection, TransportPolicy

from tests.interop.turn_stage import PASSWORD, TLS_PORT, USER, TurnStage
from tests.netns.plain_pair import entered

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]  # the first one may have to install programs

SIZES: Final = (1, 2, 3, 1000, 1200)
WAYS: Final = {
    "udp": ("udp", "198.51.100.1", 3478),
    "udp over IPv6": ("udp", "2001:db8::1", 3478),
    "tcp": ("tcp", "198.51.100.1", 3478),
    "tls": ("tls", "198.51.100.1", TLS_PORT),
}


@pytest.fixture(scope="module")
def stage() -> Iterator[TurnStage]:
    with ExitStack() as stack:
        yield TurnStage(stack, "off")


def test_agents_meet_through_the_relay(stage: TurnStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(stage.certificate))  # all that it trusts
    for transport, address, port in WAYS.values():
        with entered(stage.there):
            asyncio.run(_meet(_agent(transport, address, port, True), _agent(transport, address, port, False)))
    stage.end_capture()
    assert stage.packets("python") > len(WAYS) * 2 * len(SIZES)
    assert not stage.faults()
    for transport in ("udp", "tcp"):
        assert stage.messages(f"{transport} && stun.type == 0x0103"), transport
    assert not stage.complaints()


def _agent(transport: str, address: str, port: int, controlling: bool) -> Connection:
    return Connection(
        controlling,
        turn_server=(address, port),
        turn_username=USER,
        turn_password=PASSWORD,
        turn_transport="udp" if transport == "udp" else "tcp",
        turn_ssl=transport == "tls",
        transport_policy=TransportPolicy.RELAY,
    )


async def _meet(left: Connection, right: Connection) -> None:
    async with asyncio.timeout(60):
        for one, other in ((left, right), (right, left)):
            await one.gather_candidates()
            assert {candidate.type for candidate in one.local_candidates} == {"relay"}
            for candidate in one.local_candidates:
                await other.add_remote_candidate(candidate)
            await other.add_remote_candidate(None)
            other.remote_username, other.remote_password = one.local_username, one.local_password
        await asyncio.gather(left.connect(), right.connect())
        for sender, receiver in ((left, right), (right, left)):
            for size in SIZES:
                message = bytes(index % 251 for index in range(size))
                await sender.send(message)
                assert await receiver.recv() == message
        await asyncio.gather(left.close(), right.close())
