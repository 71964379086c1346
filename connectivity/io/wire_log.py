"""The wire log: a line at TRACE for each run of packets that passes a socket, the device or the portal link.

Targets: ``wire::net::recv`` and ``wire::net::send`` (datagrams), ``wire::dev::recv`` and ``wire::dev::send`` (packets
of the host and for it), ``wire::api::recv`` and ``wire::api::send`` (messages of the portal). Lines have peers, sizes
and names of events; never payload, keys or tokens.

Off, it does not exist: who moves packets holds a ``WireLog`` or None, and looks once a run. So a change of the log
filter has to be followed by ``active``.
"""

import logging
from typing import Final

from connectivity.endpoint import Endpoint
from connectivity.io.logs import TRACE
from connectivity.ip.flow import ECN_MASK, Flow, PacketRun
from connectivity.run import Received, Run, Transmit

_DIRECTIVE: Final = "wire=trace"
_net_recv = logging.getLogger("wire.net.recv")
_net_send = logging.getLogger("wire.net.send")
_dev_recv = logging.getLogger("wire.dev.recv")
_dev_send = logging.getLogger("wire.dev.send")
_api_recv = logging.getLogger("wire.api.recv")
_api_send = logging.getLogger("wire.api.send")


class WireLog:
    """Writes the lines about datagrams and packets."""

    def received(self, received: Received) -> None:
        """Datagrams from the network."""
        local, remote, run, tos = received
        _net_recv.log(TRACE, "Received", extra={"fields": _datagrams(remote, local, run, tos)})

    def sent(self, transmit: Transmit) -> None:
        """Datagrams to the network."""
        source, destination, run, tos = transmit
        _net_send.log(TRACE, "Sending", extra={"fields": _datagrams(source, destination, run, tos)})

    def from_host(self, packets: PacketRun) -> None:
        """Packets of the host."""
        _dev_recv.log(TRACE, "Read", extra={"fields": _packets(packets)})

    def to_host(self, packets: PacketRun) -> None:
        """Packets for the host."""
        _dev_send.log(TRACE, "Writing", extra={"fields": _packets(packets)})

    def own_to_host(self, packet: bytes) -> None:
        """A packet for the host that is our own word."""
        _dev_send.log(TRACE, "Writing our own", extra={"fields": {"num_bytes": len(packet)}})


def active() -> WireLog | None:
    """A wire log, if the filter in use wants any of its lines."""
    wanted = any(logger.isEnabledFor(TRACE) for logger in (_net_recv, _net_send, _dev_recv, _dev_send))
    return WireLog() if wanted else None


def portal_said(event: str) -> None:
    """A message from the portal; these are few, so it is asked each time whether to log them."""
    _api_recv.log(TRACE, "Received", extra={"fields": {"event": event}})


def told_portal(event: str) -> None:
    """A message to the portal."""
    _api_send.log(TRACE, "Sending", extra={"fields": {"event": event}})


def toggled(directives: str) -> str:
    """A log filter with the wire log, or without it if it had it."""
    parts = [part.strip() for part in directives.split(",") if part.strip()]
    if _DIRECTIVE in parts:
        return ",".join(part for part in parts if part != _DIRECTIVE)
    return ",".join([*parts, _DIRECTIVE])


def _datagrams(source: Endpoint | None, destination: Endpoint, run: Run, tos: int) -> dict[str, object]:
    return {
        "src": "any" if source is None else source,
        "dst": destination,
        "ecn": tos & ECN_MASK,
        "count": run.segment_count,
        "segment_size": run.segment_size,
        "num_bytes": len(run.data),
    }


def _packets(packets: PacketRun) -> dict[str, object]:
    flow, run = Flow.from_key(packets.flow), packets.run
    return {
        "src": Endpoint(flow.source, flow.source_port),
        "dst": Endpoint(flow.destination, flow.destination_port),
        "protocol": flow.protocol,
        "ecn": packets.tos & ECN_MASK,
        "count": run.segment_count,
        "segment_size": run.segment_size,
        "num_bytes": len(run.data),
    }
