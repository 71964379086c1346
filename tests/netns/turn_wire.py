"""A stand-alone relay's clients with real sockets, over UDP, TCP and TLS."""

import socket
import ssl
from contextlib import ExitStack

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.run import Run, Transmit
from connectivity.stun import Message, decode
from connectivity.turn import channel_data
from relay.core import Output, Relayed, ToClient, Transport
from tests.netns.plain_pair import entered
from tests.netns.relay_stage import FAR, RELAY
from tests.unit.relay.standard import StandardClient, standalone

PORTS = {Transport.UDP: 3478, Transport.TCP: 3478, Transport.TLS: 5349}


class TurnWire(StandardClient):
    """Alice, at the far end of the wire."""

    def __init__(
        self,
        stack: ExitStack,
        namespace: str,
        transport: Transport = Transport.UDP,
        version: int = 4,
        username: str = "alice",
        *,
        password: str = "secret",
        local: IPAddress | None = None,
        server: Endpoint | None = None,
    ) -> None:
        kind = socket.SOCK_DGRAM if transport is Transport.UDP else socket.SOCK_STREAM
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with entered(namespace):
            self.socket = stack.enter_context(socket.socket(family, kind))
        self.socket.settimeout(10)
        local = local or FAR[version]
        server = server or Endpoint(RELAY[version], PORTS[transport])
        self.socket.bind((str(local), 0))
        self.socket.connect((str(server.ip), server.port))
        self.certificate = b""
        if transport is Transport.TLS:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            wrapped = stack.enter_context(context.wrap_socket(self.socket))
            self.certificate = wrapped.getpeercert(binary_form=True) or b""
            self.socket = wrapped
        endpoint = Endpoint(local, self.socket.getsockname()[1])
        super().__init__(standalone(), str(endpoint), username=username, password=password, transport=transport)
        self._unread = b""

    def send(self, data: bytes | Run, *, tos: int = 0) -> list[Relayed | Output]:
        assert not tos
        self.write(bytes(data.data) if isinstance(data, Run) else data)
        return [ToClient(Transmit(None, self.endpoint, Run.single(self.read())))]

    def write(self, data: bytes) -> None:
        """Bytes to the relay."""
        self.socket.sendall(data)

    def send_data(self, number: int, payload: bytes) -> None:
        """Channel data, padded where that is due."""
        padding = b"" if self.five_tuple.transport is Transport.UDP else bytes(-len(payload) % 4)
        self.write(channel_data.encode_header(number, len(payload)) + payload + padding)

    def read(self) -> bytes:
        """The next message; empty at the end of the stream."""
        if self.five_tuple.transport is Transport.UDP:
            return self.socket.recv(65535)
        while len(self._unread) < 4 or len(self._unread) < self._size():
            more = self.socket.recv(65535)
            if not more:
                return b""
            self._unread += more
        size = self._size()
        message, self._unread = self._unread[:size], self._unread[size:]
        return message

    def read_data(self) -> tuple[int, bytes]:
        """Channel number and payload of the next message."""
        message = self.read()
        length = int.from_bytes(message[2:4], "big")
        return int.from_bytes(message[:2], "big"), message[4 : 4 + length]

    def read_message(self) -> Message:
        """The next message, which is STUN."""
        return decode(self.read())

    def _size(self) -> int:
        length = int.from_bytes(self._unread[2:4], "big")
        return 4 + length + -length % 4 if self._unread[0] & 0xC0 else 20 + length
