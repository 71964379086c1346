"""IP packets: the strict parser, flows, checksums, ICMP errors, and the batches that TUN devices move."""

from connectivity.ip.flow import Flow, FlowKey, PacketRun, mark_congestion, split_flows
from connectivity.ip.packet import MAX_PACKET_BYTES, IpError, Packet, parse

__all__ = [
    "MAX_PACKET_BYTES",
    "Flow",
    "FlowKey",
    "IpError",
    "Packet",
    "PacketRun",
    "mark_congestion",
    "parse",
    "split_flows",
]
