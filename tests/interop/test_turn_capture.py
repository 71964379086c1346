"""The eye of the other ``test_turn_*``: what is no TURN, or broken, does not escape tshark."""

import socket
import ssl
from contextlib import ExitStack
from typing import Final

import pytest

from connectivity.stun import MessageClass, Method, encode
from tests.interop.turn_stage import TLS_PORT, TurnStage
from tests.netns.plain_pair import entered

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]  # the first one may have to install programs

REQUEST: Final = encode(Method.BINDING, MessageClass.REQUEST, bytes(12), ())
BROKEN: Final = {
    "an attribute that is longer than the message": REQUEST[:2] + b"\0\4" + REQUEST[4:] + b"\x80\x22\1\0",
    "a wrong fingerprint": REQUEST[:2] + b"\0\10" + REQUEST[4:] + b"\x80\x28\0\4" + bytes(4),
    "neither STUN nor channel data": b"\xff" * 40,
}


def test_tshark_finds_what_is_broken() -> None:
    with ExitStack() as stack:
        stage = TurnStage(stack, "off")
        with entered(stage.there):
            client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            connection = stack.enter_context(socket.create_connection(("198.51.100.1", TLS_PORT), timeout=10))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        secured = stack.enter_context(context.wrap_socket(connection))
        for message in (BROKEN["a wrong fingerprint"], REQUEST):
            secured.sendall(message)
        assert secured.recv(100)
        client.settimeout(10)
        client.connect(("198.51.100.1", 3478))
        for datagram in (*BROKEN.values(), REQUEST):
            client.send(datagram)
        assert client.recv(100)  # so all of them are captured, and the last one is in order
        stage.end_capture()
        assert len(stage.faults()) == len(BROKEN) + 1, stage.faults()
        assert stage.messages("stun", within_tls=True) == 3
