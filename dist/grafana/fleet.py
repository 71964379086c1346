"""The dashboard of all services together."""

from typing import Final

from dist.grafana.common import BITS
from dist.grafana.model import Dashboard, Row, events, lines, number, rate, total, troubles

GATEWAY_JOB: Final = "postern-gateway"
FLEET: Final = Dashboard(
    "postern-fleet",
    "Postern: the fleet",
    "postern-.*",
    [
        Row(
            [
                number(
                    "Clients on line",
                    "none",
                    total("postern_portal_online", where='type="client"'),
                    "As the portal has them",
                ),
                number(
                    "Gateways on line",
                    "none",
                    total("postern_portal_online", where='type="gateway"'),
                    "Normal: all that run; none is PosternNoGateway",
                    is_needed=True,
                ),
                number(
                    "Relays on line",
                    "none",
                    total("postern_portal_online", where='type="relay"'),
                    "Normal: all that run; none is PosternNoRelay",
                    is_needed=True,
                ),
                number(
                    "Through gateways",
                    "bps",
                    rate("postern_tunnel_bytes_total", job=GATEWAY_JOB, factor=BITS),
                    "Inside tunnels, both directions",
                ),
                number(
                    "Through relays", "bps", rate("postern_relay_bytes_total", factor=BITS), "Payload, both directions"
                ),
                number(
                    "Accesses",
                    "none",
                    total("postern_portal_grants"),
                    "Pairs of client and resource that gateways were told of",
                ),
            ]
        ),
        Row(
            [
                lines(
                    "On line, as the portal says",
                    "none",
                    "Normal: no steps down but of clients in the evening",
                    (total("postern_portal_online", "type"), "{{type}}"),
                ),
                lines(
                    "Processes that answer",
                    "none",
                    "At /metrics. Normal: all; a step down is PosternDown",
                    ('sum by (job) (up{job=~"postern-.*"})', "{{job}}"),
                ),
                lines(
                    "Let in by the portal, as they say",
                    "none",
                    "Normal: as many as answer; fewer is PosternPortalAway",
                    (total("postern_link_joined", "job"), "{{job}}"),
                ),
            ],
            "Who is there",
        ),
        Row(
            [
                events(
                    "Logins",
                    "reqps",
                    "Normal: accepted. wrong_token: one was taken out, or a guess; the portal's log has the address",
                    (rate("postern_portal_logins_total", "type, result"), "{{type}} {{result}}"),
                ),
                events(
                    "Requests for resources",
                    "reqps",
                    "Normal: created. offline: no gateway of that site; forbidden: a policy has ended",
                    (rate("postern_portal_flows_total", "result"), "{{result}}"),
                ),
                lines(
                    "Messages of the portal",
                    "ops",
                    "receive is from components. Normal: one each half a minute of each",
                    (rate("postern_portal_messages_total", "type, direction"), "{{type}} {{direction}}"),
                ),
            ],
            "The portal",
        ),
        Row(
            [
                lines(
                    "Resources of clients",
                    "none",
                    "Normal: online, and unknown until used; offline has no gateway",
                    (total("postern_client_resources", "state"), "{{state}}"),
                ),
                lines(
                    "Requests that wait",
                    "none",
                    "For their gateway's word. Normal: zero but for moments",
                    (total("postern_portal_waiting_flows"), "waiting"),
                ),
                troubles(
                    "Cut off for flooding",
                    "ops",
                    "Normal: none; a broken or hostile component, which the portal's log names",
                    (rate("postern_portal_cut_off_total", "type"), "{{type}}"),
                ),
            ]
        ),
        Row(
            [
                lines(
                    "Versions",
                    "none",
                    "Processes of each. Normal: one of each service, two during an upgrade",
                    (total("postern_build", "service, version", of="count"), "{{service}} {{version}}"),
                ),
                lines(
                    "Restarts in the last hour",
                    "none",
                    "Normal: zero but for upgrades",
                    ('sum by (job) (resets(process_uptime{job=~"postern-.*"}[1h]))', "{{job}}"),
                ),
                lines(
                    "Processor",
                    "percentunit",
                    "Of all instances together; 100 % is one core",
                    (rate("process_cpu_time_total", "job"), "{{job}}"),
                ),
                lines(
                    "Memory", "bytes", "Of all instances together", (total("process_memory_usage", "job"), "{{job}}")
                ),
            ],
            "Processes",
        ),
    ],
)
