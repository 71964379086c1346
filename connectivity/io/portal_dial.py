"""Makes WebSocket connections to the portal, and says what came of it where there is none.

The upgrade request has the headers Host (name only), Connection, Upgrade, Sec-WebSocket-Version, Sec-WebSocket-Key and
User-Agent, nothing else. The host is resolved anew for each attempt; where that fails, the addresses known from before
are used, because the resolver may itself live behind the tunnel that is down.
"""

import asyncio
import logging
import socket
import ssl
import time
from http import HTTPStatus
from typing import Any, Final, Literal

import aiohttp
from yarl import URL

from connectivity.errors import chain
from connectivity.io.portal_resolver import PortalResolver
from connectivity.io.udp_options import set_mark
from connectivity.phoenix.failure import PortalFatal, Transient, classify_status, remedy
from connectivity.phoenix.login import PortalLogin

TCP_CONNECT_SECONDS: Final = 5.0  # all addresses together
ATTEMPT_SECONDS: Final = 15.0  # name, TCP, TLS and upgrade together
CLOSE_SECONDS: Final = 1.0
MAXIMUM_MESSAGE_BYTES: Final = 64 << 20

_logger = logging.getLogger("connectivity.phoenix")


class WebSocket(aiohttp.ClientWebSocketResponse[Literal[True]]):
    """One that can also be dropped."""

    def abort(self) -> None:
        """Drop the TCP connection without a closing handshake; harmless after one."""
        self._response.close()


class Dialler:
    """That of one link: it remembers where the portal was."""

    def __init__(self, mark: int | None) -> None:
        self.resolver = PortalResolver()
        self._mark = mark

    def session(self) -> aiohttp.ClientSession:
        """What an attempt is made with; the connection ends with it."""
        connector = aiohttp.TCPConnector(
            resolver=self.resolver, use_dns_cache=False, force_close=True, socket_factory=self._open_socket
        )
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(_refuse_redirect)
        return aiohttp.ClientSession(
            connector=connector,
            skip_auto_headers=("Accept", "Accept-Encoding"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=TCP_CONNECT_SECONDS),
            trace_configs=[trace],
            cookie_jar=aiohttp.DummyCookieJar(),
            ws_response_class=WebSocket,
        )

    async def dial(self, session: aiohttp.ClientSession, login: PortalLogin) -> WebSocket | Transient:
        """A connection, or why there is none yet.

        Raises:
            PortalFatal: there will be none.
        """
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                await self.resolver.refresh(login.host, login.port)
                websocket = await session.ws_connect(
                    URL(login.url, encoded=True),
                    headers={"Host": login.host, "User-Agent": login.user_agent},
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                    compress=0,
                    max_msg_size=MAXIMUM_MESSAGE_BYTES,
                )
        except _Redirected as redirect:
            return Transient(f"Failed to establish WebSocket connection: {redirect.status} redirect")
        except aiohttp.WSServerHandshakeError as error:
            return _refused(login, error)
        except aiohttp.ClientConnectorCertificateError as error:
            raise PortalFatal(f"invalid peer certificate: {error.certificate_error}") from None
        except ssl.SSLCertVerificationError as error:
            raise PortalFatal(f"invalid peer certificate: {error.verify_message}") from None
        except TimeoutError:
            return Transient("Failed to establish WebSocket connection: timed out")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Transient(f"Failed to establish WebSocket connection: {chain(error)}")
        assert isinstance(websocket, WebSocket), "the session makes WebSockets of our class"
        return websocket

    def _open_socket(self, address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol = address[0], address[1], address[2]
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._mark is not None:
            try:
                set_mark(opened, self._mark)
            except PermissionError:
                _logger.debug("No permission to mark the portal socket")
        return opened


def _refused(login: PortalLogin, error: aiohttp.WSServerHandshakeError) -> Transient:
    if error.status == 101:
        return Transient(f"Failed to establish WebSocket connection: {error.message}")
    retry_after = error.headers.get("Retry-After") if error.headers else None
    outcome = classify_status(error.status, retry_after, time.time_ns())
    if isinstance(outcome, PortalFatal):
        if error.status == HTTPStatus.BAD_REQUEST:  # which servers of TLS say to what is none
            outcome = PortalFatal(f"{outcome.reason} ({remedy(login.scheme, outcome.reason)})", status=400)
        raise outcome from None
    return outcome


class _Redirected(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


async def _refuse_redirect(_session: object, _context: object, parameters: aiohttp.TraceRequestRedirectParams) -> None:
    raise _Redirected(parameters.response.status)
