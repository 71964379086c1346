"""The dashboard of the gateways."""

from typing import Final

from dist.grafana.common import BITS, process
from dist.grafana.model import Dashboard, Row, events, lines, number, rate, share, total, troubles

JOB: Final = "postern-gateway"


def datagrams(metric: str, prefix: str, by: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """Of the sockets and of the device: the latter has no transport."""
    labels = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return (
        (rate(metric, by, JOB, where='network_transport="udp"'), f"{prefix}network {labels}"),
        (rate(metric, by, JOB, where='network_transport!="udp"'), f"{prefix}device {labels}"),
    )


GATEWAYS: Final = Dashboard(
    "postern-gateway",
    "Postern: gateways",
    JOB,
    [
        Row(
            [
                number(
                    "Gateways in the portal",
                    "none",
                    total("postern_link_joined", job=JOB),
                    "Let in by it. Normal: all that run; tunnels outlive its absence",
                    is_needed=True,
                ),
                number("Clients", "none", total("postern_gateway_clients"), "With an access, connected or not"),
                number("Resources in use", "none", total("postern_gateway_resources"), "That one of them may reach"),
                number(
                    "To clients",
                    "bps",
                    rate("postern_tunnel_bytes_total", job=JOB, where='network_io_direction="transmit"', factor=BITS),
                    "Inside the tunnel",
                ),
                number(
                    "From clients",
                    "bps",
                    rate("postern_tunnel_bytes_total", job=JOB, where='network_io_direction="receive"', factor=BITS),
                    "Inside the tunnel",
                ),
                number(
                    "Through relays",
                    "percentunit",
                    share(
                        total("postern_tunnel_paths", job=JOB, where='path="relayed"'),
                        total("postern_tunnel_paths", job=JOB),
                    ),
                    "Share of the paths. Above half: NATs, or UDP 52625 closed (PosternMostlyRelayed)",
                ),
            ]
        ),
        Row(
            [
                lines(
                    "Traffic in the tunnel",
                    "bps",
                    "transmit is to clients",
                    (
                        rate("postern_tunnel_bytes_total", "network_io_direction", JOB, factor=BITS),
                        "{{network_io_direction}}",
                    ),
                ),
                lines(
                    "Datagrams and packets",
                    "pps",
                    "Of the network's sockets; a device's packet is up to 64 KiB",
                    *datagrams("system_network_packets_total", "", "network_io_direction"),
                ),
                lines(
                    "Round trip of paths",
                    "s",
                    "Normal: the distance; of the slowest of all gateways. It rises where lines are full",
                    (total("postern_tunnel_round_trip", "of", JOB, of="max"), "{{of}}"),
                ),
            ],
            "Traffic",
        ),
        Row(
            [
                lines(
                    "Connections to clients",
                    "none",
                    "Normal: connected and idle; many that connect do not get through",
                    (total("postern_tunnel_connections", "state", JOB), "{{state}}"),
                ),
                lines(
                    "Paths",
                    "none",
                    "direct is best; relayed works, and costs the relay",
                    (total("postern_tunnel_paths", "path, network_type", JOB), "{{path}} {{network_type}}"),
                ),
            ],
            "Clients",
        ),
        Row(
            [
                troubles(
                    "Dropped, by reason",
                    "pps",
                    "Normal: few. Unauthorized, Filtered: policy; BufferFull: too much. docs/operating.md has all",
                    (
                        rate("network_packet_dropped_total", "system_buffer_pool_name, error_type", JOB),
                        "{{system_buffer_pool_name}} {{error_type}}",
                    ),
                ),
                troubles(
                    "Refused by the system",
                    "ops",
                    "Sending and receiving. Normal: none; else no route, or a full device",
                    *datagrams("system_network_errors_total", "", "network_type, network_io_direction"),
                ),
                lines(
                    "Packets that wait",
                    "none",
                    "Normal: near zero; else a socket or the device is full",
                    (total("system_queue_length", "queue_item", JOB), "{{queue_item}}"),
                ),
            ],
            "What goes wrong",
        ),
        Row(
            [
                events(
                    "Names and queries",
                    "ops",
                    "Normal: resolved, remembered, answered; servers_failed is the name servers of this host",
                    (
                        rate("postern_events_total", "postern_part, postern_event", JOB),
                        "{{postern_part}} {{postern_event}}",
                    ),
                ),
                troubles(
                    "Handshakes refused",
                    "ops",
                    "Normal: none; not_authentic and invalid_mac1 are strangers",
                    (rate("postern_tunnel_handshakes_refused_total", "reason", JOB), "{{reason}}"),
                ),
                troubles(
                    "Candidates refused",
                    "ops",
                    "Addresses of clients that are not tried. Normal: a few, when clients come",
                    (rate("postern_tunnel_candidates_refused_total", "reason", JOB), "{{reason}}"),
                ),
            ]
        ),
        Row(process(JOB), "Processes"),
    ],
)
