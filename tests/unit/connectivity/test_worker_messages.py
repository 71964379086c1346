"""What the core and a worker tell each other survives as bytes, and nothing else is taken for it."""

from ipaddress import ip_address

import pytest

from connectivity.data_path import messages
from connectivity.data_path.messages import Message, UnreadableError, decode, encode
from connectivity.endpoint import Endpoint
from connectivity.run import Run
from connectivity.wireguard.noise import TransportKeys

V4, V6 = Endpoint(ip_address("192.0.2.1"), 3478), Endpoint(ip_address("2001:db8::1"), 52625)
RUN = Run(memoryview(b"abcde"), 2)
KEYS = TransportKeys(bytes(range(32)), bytes(range(32, 64)))
ALL: list[Message] = [
    messages.AddPeer(0xFFFFFF, 4095),
    messages.RemovePeer(7),
    messages.AddSession(7, 0x701, 0xFFFFFFFF, True, 1 << 60, 1 << 40, -1, KEYS),
    messages.UseSession(7, 0x701),
    messages.EndSession(7, 0x701),
    messages.SetPath(7, None, V4, 0x4001, 5),
    messages.SetPath(7, V6, V6, None, None),
    messages.SetPath(7, None, None, None, None),
    messages.AllowChannel(V6, 0x4FFF, 9),
    messages.ForgetChannels(),
    messages.Remember(1, 7, True, b"key", V4.ip, V6.ip, 0, 65535, True),
    messages.Remember(0, 7, False, b"key", None, None, None, None, False),
    messages.Forget(7, True, b"key"),
    messages.ForgetFlows(),
    messages.Answer(1, True),
    messages.Seal(7, 3, RUN),
    messages.KeepAlive(7),
    messages.Start(),
    messages.Stop(),
    messages.Question(1, 7, True, 255, 3, b"key", RUN),
    messages.Stirred(7, 0x701, True),
    messages.Renew(7),
    messages.RenewChannel(V4, 0x4000),
    messages.Used(7, False, 1 << 50, 0x12, b"key"),
    messages.Dropped(7, 3, 1000),
    messages.Counted(messages.WORKER, (0, 1 << 40)),
    messages.Ready(),
    messages.Failed("nicht möglich".encode()),
    messages.Datagrams(V4, V6, 3, True, RUN),
    messages.HostPackets(3, b"key", RUN),
]


def test_every_kind_is_here() -> None:
    assert {type(message) for message in ALL} == set(messages.KINDS)


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_there_and_back(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_what_is_cut_off_or_too_long_is_none(message: Message) -> None:
    data = encode(message)
    whole = {len(data)} | ({len(data) - 1, len(data) - 2, len(data) - 3} if data.endswith(b"abcde") else set())
    for size in range(len(data)):
        if size not in whole:  # a run ends where the message does
            with pytest.raises(UnreadableError):
                decode(data[:size])
    if not data.endswith(b"abcde"):
        with pytest.raises(UnreadableError):
            decode(data + b"\0")


def test_unknown_kinds_and_values_are_none() -> None:
    for data in (b"", b"\xff", bytes((250,)) * 20, encode(messages.AllowChannel(V4, 1, 1)).replace(b"\4", b"\5", 1)):
        with pytest.raises(UnreadableError):
            decode(data)


def test_keys_are_not_shown() -> None:
    assert str(KEYS.send) not in repr(messages.AddSession(7, 1, 2, True, 0, 0, -1, KEYS))
