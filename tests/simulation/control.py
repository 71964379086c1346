"""The portal of the simulation and everybody's link to it: the real control server, the real channels, no sockets.

A link is a TCP connection that keeps frames in order. While its host or its way is cut, frames wait, as TCP does; what
one end has given up meanwhile the other learns when the way is open again.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from connectivity.clock import MILLISECOND, SECOND, Duration, Instant, earliest
from connectivity.phoenix.backoff import Backoff
from connectivity.phoenix.channel import Joined, LoginFailed, Lost, MessageReceived, PhoenixChannel
from connectivity.phoenix.failure import PortalFatal, classify_status
from connectivity.phoenix.login import PortalLogin
from connectivity.phoenix.message import Json
from portal.configuration import Configuration, TokenType
from portal.core import ControlServer
from portal.login import Refusal
from portal.session import CloseTransport, SendText, Session
from tests.simulation.network import Network

DIAL_TIMEOUT: Final = 5 * SECOND
LATENCY: Final = 8 * MILLISECOND


@dataclass(slots=True, eq=False)
class Connection:
    """One TCP connection. None among the frames is its end."""

    link: "Link"
    session: Session | None = None
    to_portal: deque[str | None] = field(default_factory=deque)
    to_component: deque[str | None] = field(default_factory=deque)


class Portal:
    """The portal's process, which may be away."""

    def __init__(self, network: Network, configuration: Configuration) -> None:
        self.network = network
        self.configuration = configuration
        self.links: list[Link] = []
        self.core: ControlServer | None = None
        self.due: Instant = 0
        self._connections: dict[int, Connection] = {}
        self.start()

    def start(self) -> None:
        """A process without memory."""
        if self.core is None:
            network = self.network
            self.core = ControlServer(
                self.configuration, rng=network.random.randbytes, now=network.now, wall_now=network.wall_now
            )
            self._drain()

    def stop(self) -> None:
        """The process dies, and its connections with it."""
        for link in self.links:
            link.note_liveness()
        self.core = None
        self.due = 1 << 62
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            connection.session = None
            self._post(connection, None)

    def apply(self, configuration: Configuration) -> None:
        """Another file."""
        self.configuration = configuration
        if self.core is not None:
            self.core.apply(configuration, self.network.now, self.network.wall_now)
            self._drain()

    def handle_timeout(self) -> None:
        """Run what is due."""
        if self.core is not None:
            self.core.handle_timeout(self.network.now, self.network.wall_now)
            self._drain()

    def accept(self, connection: Connection, kind: TokenType, login: PortalLogin) -> Refusal | None:
        """An upgrade request."""
        assert self.core is not None, "only a portal that is there is asked"
        parameters = dict(parse_qsl(urlsplit(login.url).query))
        network = self.network
        answer = self.core.authenticate(
            kind, parameters, {"User-Agent": login.user_agent}, "198.51.100.1", network.now, network.wall_now
        )
        if isinstance(answer, Refusal):
            return answer
        session = self.core.handle_connected(answer, network.now)
        if session is None:
            return Refusal(503, "no room")
        connection.session = session
        self._connections[session.number] = connection
        self._drain()
        return None

    def receive(self, connection: Connection) -> None:
        """The next frame of a component, or its end."""
        frame = connection.to_portal.popleft()
        if self.core is None or connection.session is None:
            if frame is not None:
                self._post(connection, None)  # a reset
            return
        if frame is None:
            del self._connections[connection.session.number]
            self.core.handle_closed(connection.session, self.network.now)
            connection.session = None
        else:
            self.core.handle_text(connection.session, frame, self.network.now, self.network.wall_now)
        self._drain()

    def _drain(self) -> None:
        assert self.core is not None, "only a portal that is there does anything"
        while (output := self.core.poll_output()) is not None:
            connection = self._connections.get(output.session.number)
            if connection is None:
                continue
            match output:
                case SendText(_, text):
                    self._post(connection, text)
                case CloseTransport():
                    connection.link.note_liveness()
                    del self._connections[output.session.number]
                    connection.session = None
                    self._post(connection, None)
        self.due = self.core.poll_timeout()

    def _post(self, connection: Connection, frame: str | None) -> None:
        connection.to_component.append(frame)
        self.network.at(LATENCY, connection.link.deliver_down(connection))


class Link:
    """A component's end, as ``connectivity.io.portal.PortalLink`` drives it."""

    def __init__(
        self,
        portal: Portal,
        kind: TokenType,
        login: PortalLogin,
        join_payload: Json,
        handle: Callable[[str, Json], None],
        is_cut: Callable[[], bool],
        random: Random,
    ) -> None:
        self.portal = portal
        self.network = portal.network
        self.login = login
        self.due: Instant = self.network.now
        self.joined_at: Instant | None = None  # since when the portal's messages come
        self.live_until: Instant = self.network.now  # when they last did
        self.resumed_at: Instant = self.network.now  # when its way was last open again
        self.refused: str | None = None
        self._kind = kind
        self._handle = handle
        self._is_cut = is_cut
        self._channel = PhoenixChannel(kind.value, join_payload, self.network.now)
        self._backoff = Backoff(maximum_ns=None, rng=random.randbytes)
        self._connection: Connection | None = None
        self._dial_at: Instant | None = self.network.now
        self._is_closed = False
        portal.links.append(self)

    @property
    def is_live(self) -> bool:
        """Whether what the portal says arrives at once."""
        connection = self._connection
        return (
            connection is not None
            and connection.session is not None
            and self.joined_at is not None
            and not self._is_cut()
        )

    def send(self, event: str, payload: Json) -> None:
        """An application message."""
        self._channel.send(event, payload)
        self._drain()

    def reconnect(self, login: PortalLogin | None = None, *, moved: bool = False) -> None:
        """Another connection at once; what waited is forgotten. ``moved``: the portal does not learn of the old end."""
        self.login = login or self.login
        self._channel.clear_queue()
        self._abandon(silently=moved)
        self._channel.handle_disconnected()
        self._backoff.reset()
        self._dial_at = self.network.now
        self._arm()

    def close(self) -> None:
        """The component leaves."""
        self._is_closed = True
        self._abandon()
        self._dial_at = None
        self.due = 1 << 62
        self.portal.links.remove(self)

    def note_liveness(self) -> None:
        """Call before anything that may end it: remembers until when the portal was heard."""
        if self.is_live:
            self.live_until = self.network.now

    def resume(self) -> None:
        """The way is open again: what waited arrives."""
        self.resumed_at = self.network.now
        connection = self._connection
        if connection is None:
            return
        for _ in connection.to_portal:
            self.network.at(LATENCY, self._deliver_up(connection))
        for _ in connection.to_component:
            self.network.at(LATENCY, self.deliver_down(connection))

    def handle_timeout(self) -> None:
        """Dial, or run the channel's timers."""
        now = self.network.now
        if self._dial_at is not None:
            if now >= self._dial_at:
                self._dial()
        else:
            self._channel.handle_timeout(now)
            self._drain()
        self._arm()

    def deliver_down(self, connection: Connection) -> Callable[[], None]:
        """What a frame does when it arrives at the component."""

        def arrive() -> None:
            if connection is not self._connection or self._is_cut() or not connection.to_component:
                return
            frame = connection.to_component.popleft()
            if frame is None:
                self._lost()
            else:
                self._channel.handle_text(frame)
                self._drain()
            self._arm()

        return arrive

    # Private ---------------------------------------------------------------------------------------------------------

    def _dial(self) -> None:
        if self._is_cut():
            self._retry(DIAL_TIMEOUT)
            return
        if self.portal.core is None:
            self._retry(0)
            return
        connection = Connection(self)
        refusal = self.portal.accept(connection, self._kind, self.login)
        if refusal is not None:
            outcome = classify_status(refusal.status, None, self.network.wall_now)
            if isinstance(outcome, PortalFatal):
                self.refused = outcome.reason
                self._dial_at = None
                return
            self._retry(outcome.retry_after_ns)
            return
        self._connection = connection
        self._dial_at = None
        self._backoff.reset()
        self._channel.handle_connected(self.network.now)
        self._drain()

    def _retry(self, at_least: Duration) -> None:
        delay = self._backoff.next_delay(self.network.now)
        assert delay is not None, "these links never give up"
        self._dial_at = self.network.now + max(delay, at_least)

    def _lost(self) -> None:
        """The connection is of no more use."""
        self._abandon()
        self._channel.handle_disconnected()
        self._retry(0)

    def _abandon(self, *, silently: bool = False) -> None:
        self.note_liveness()
        connection, self._connection = self._connection, None
        self.joined_at = None
        if connection is not None and not silently:
            connection.to_portal.append(None)
            self.network.at(LATENCY, self._deliver_up(connection))

    def _deliver_up(self, connection: Connection) -> Callable[[], None]:
        def arrive() -> None:
            if connection.to_portal and not self._is_cut():
                self.portal.receive(connection)

        return arrive

    def _drain(self) -> None:
        now = self.network.now
        connection = self._connection
        while connection is not None and (text := self._channel.poll_transmit(now)) is not None:
            connection.to_portal.append(text)
            self.network.at(LATENCY, self._deliver_up(connection))
        while (event := self._channel.poll_event()) is not None:
            match event:
                case MessageReceived(name, payload):
                    self._handle(name, payload)
                case Joined():
                    self.joined_at = now
                case Lost():
                    self._lost()
                case LoginFailed(reason):
                    self.refused = reason
                    self._abandon()
        self._arm()

    def _arm(self) -> None:
        if not self._is_closed:
            due = earliest(self._dial_at, self._channel.poll_timeout() if self._dial_at is None else None)
            self.due = 1 << 62 if due is None else due
