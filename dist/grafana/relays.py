"""The dashboard of the relays."""

from typing import Final

from dist.grafana.common import BITS, process
from dist.grafana.model import Dashboard, Row, events, lines, number, rate, share, total, troubles

JOB: Final = "postern-relay"
RELAYS: Final = Dashboard(
    "postern-relay",
    "Postern: relays",
    JOB,
    [
        Row(
            [
                number(
                    "Relays that are ready",
                    "none",
                    total("postern_relay_ready"),
                    "Normal: all that run",
                    is_needed=True,
                ),
                number(
                    "Allocations",
                    "none",
                    total("postern_relay_allocations"),
                    "Devices that use a relay, once or more each",
                ),
                number("Channels", "none", total("postern_relay_channels"), "Peers that they send to"),
                number("Relayed", "bps", rate("postern_relay_bytes_total", factor=BITS), "Payload, both directions"),
                number(
                    "Forwarded in the kernel",
                    "percentunit",
                    share(rate("postern_relay_bytes_total", where='path="xdp"'), rate("postern_relay_bytes_total")),
                    "Share of the bytes. Normal with offload: above 90 % under load; the rest of it below says why not",
                ),
                number(
                    "Connections",
                    "none",
                    total("postern_relay_streams"),
                    "Over TCP and TLS; a relay under a portal has none",
                ),
            ]
        ),
        Row(
            [
                lines(
                    "Traffic by path",
                    "bps",
                    "xdp is the kernel, python user space. Normal with offload: python near zero",
                    (rate("postern_relay_bytes_total", "path, direction", factor=BITS), "{{path}} {{direction}}"),
                ),
                lines(
                    "Packets by path",
                    "pps",
                    "The same, counted",
                    (rate("postern_relay_packets_total", "path, direction"), "{{path}} {{direction}}"),
                ),
            ],
            "Traffic",
        ),
        Row(
            [
                troubles(
                    "Dropped, by reason",
                    "pps",
                    "Normal: none but a few, when clients come and go. docs/metrics.md says what each reason means",
                    (rate("postern_relay_drops_total", "path, reason"), "{{path}} {{reason}}"),
                ),
                troubles(
                    "Ran into a quota",
                    "reqps",
                    "Normal: none. Else a client does too much, or quotas are too small",
                    (rate("postern_relay_quota_refusals_total", "quota"), "{{quota}}"),
                ),
                troubles(
                    "Credentials refused",
                    "reqps",
                    "Normal: none. expired: clocks, or old names; others: the application's secret, or somebody tries",
                    (rate("postern_relay_credential_refusals_total", "reason"), "{{reason}}"),
                ),
            ],
            "What goes wrong",
        ),
        Row(
            [
                events(
                    "Answers",
                    "reqps",
                    "Normal: success, and a 401 for each client that begins; 437 where it did so before",
                    (
                        rate("postern_relay_responses_total", "response_class, error_code"),
                        "{{response_class}} {{error_code}}",
                    ),
                ),
                troubles(
                    "ICMP errors",
                    "pps",
                    "About what went to peers. Normal: few, when a peer has gone",
                    (rate("postern_relay_icmp_errors_total", "fate"), "{{fate}}"),
                ),
                troubles(
                    "Refused by the system",
                    "ops",
                    "Sending and receiving. Normal: none; else a full device or no route",
                    (rate("postern_relay_socket_errors_total", "kind"), "{{kind}}"),
                ),
                events(
                    "Connections over TCP and TLS",
                    "ops",
                    "Normal: accepted alone. failed_handshake: certificates, or scanners",
                    (rate("postern_relay_stream_events_total", "event"), "{{event}}"),
                ),
            ]
        ),
        Row(
            [
                lines(
                    "Relays by mode of offload",
                    "none",
                    "Normal: native, or what was asked for; a step to off has its reason in the log",
                    (total("postern_relay_offload", "mode"), "{{mode}}"),
                ),
                lines(
                    "Interfaces by state",
                    "none",
                    "Where packets leave. Normal: verified; swallows costs speed, not packets",
                    (total("postern_relay_xdp_egress", "interface, state"), "{{interface}} {{state}}"),
                ),
                lines(
                    "Left to user space, by reason",
                    "pps",
                    "Normal: a few; not_channel_data is what keeps allocations alive",
                    (rate("postern_relay_xdp_passed_total", "reason"), "{{reason}}"),
                ),
            ],
            "Offload",
        ),
        Row(
            [
                lines(
                    "Channels in the kernel's table",
                    "percentunit",
                    "Of those that fit. Normal: below 90 %, else start another relay",
                    (
                        share(
                            total("postern_relay_xdp_channels", "instance"),
                            total("postern_relay_xdp_channels_max", "instance"),
                        ),
                        "{{instance}}",
                    ),
                ),
                troubles(
                    "Channels for which it had no room",
                    "ops",
                    "Normal: none; they stay in user space",
                    (rate("postern_relay_xdp_refused_total", "instance"), "{{instance}}"),
                ),
            ]
        ),
        Row(process(JOB), "Processes"),
    ],
)
