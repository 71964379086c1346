"""What is to be said of each option of coturn 4.6 to 4.8 that does not become a key of relay.yaml."""

from enum import Enum
from typing import Final, NamedTuple


class Kind(Enum):
    """What becomes of an option; the value is the heading of its list."""

    OTHERWISE = "Taken over, and not quite the same"
    NO_EQUAL = "Without an equal"
    ELSEWHERE = "Not in this file"
    ALWAYS = "The same without being told"
    UNCLEAR = "Not understood"


class Remark(NamedTuple):
    """What is said of an option wherever it is on."""

    kind: Kind
    text: str


def _no(text: str, *names: str) -> dict[str, Remark]:
    return dict.fromkeys(names, Remark(Kind.NO_EQUAL, text))


def _elsewhere(text: str, *names: str) -> dict[str, Remark]:
    return dict.fromkeys(names, Remark(Kind.ELSEWHERE, text))


def _always(text: str, *names: str) -> dict[str, Remark]:
    return dict.fromkeys(names, Remark(Kind.ALWAYS, text))


# Those that are switches; all others have a value, and a value such as "no" is one.
SWITCHES: Final = frozenset(
    (
        "allow-loopback-peers", "check-origin-consistency", "cli", "daemon", "dh1066", "dh566",
        "drop-invalid-packets", "drop-invalid-packets-log", "dtls", "fingerprint", "include-reason-string",
        "keep-address-family", "log-binding", "lt-cred-mech", "mobility", "multiplex-peer",
        "new-log-timestamp", "no-auth", "no-auth-pings", "no-cli", "no-dtls", "no-dynamic-ip-list",
        "no-dynamic-realms", "no-loopback-peers", "no-multicast-peers", "no-rfc5780", "no-software-attribute",
        "no-sslv3", "no-stdout-log", "no-stun", "no-stun-backward-compatibility", "no-tcp", "no-tcp-relay",
        "no-tls", "no-tlsv1", "no-tlsv1_1", "no-tlsv1_2", "no-udp", "no-udp-relay", "oauth", "prometheus",
        "prometheus-tls", "prometheus-username-labels", "raw-public-keys", "respond-http-unsupported",
        "response-origin-only-with-rfc5780", "rfc3489-compatibility", "rfc5766-channel-numbers", "rfc5780",
        "secure-stun", "server-relay", "simple-log", "software-attribute", "stateless-nonce",
        "stun-backward-compatibility", "stun-only", "syslog", "tlsv1", "tlsv1_1", "udp-gso", "udp-recvmmsg",
        "udp-recvmmsg-log", "udp-self-balance", "udp-sendmmsg-log", "unauthorized-ratelimit",
        "use-auth-secret", "verbose", "Verbose", "version", "web-admin", "web-admin-listen-on-workers",
    )
)  # fmt: skip

_DATABASE: Final = (
    "no database: users stand in the file (or in one beside it), secrets in rest_secrets; SIGHUP reads both"
)
_FIXED: Final = (
    "a lifetime of RFC 8656 that nothing changes: allocations 600 to 3600 s, permissions 300 s, channels 600 s"
)
_TLS: Final = "TLS 1.2 or newer with OpenSSL's own choice of ciphers and curves"
_LOG: Final = "lines go to stderr, and from there to the journal; LOG_FORMAT has their form"
_UNIT: Final = "systemd's unit or the container says it"
_ADMIN: Final = "postern relay admin talks to the running relay over a local socket (POSTERN_ADMIN_SOCKET)"

REMARKS: Final[dict[str, Remark]] = {
    **_no(_DATABASE, "userdb", "db", "psql-userdb", "sql-userdb", "mysql-userdb", "mongo-userdb", "redis-userdb"),
    **_no(_DATABASE, "secret-key-file"),
    **_no("no database of states: metrics and postern relay admin list have them", "redis-statsdb"),
    **_no("no page to administrate by: postern relay admin, and the file with SIGHUP", "web-admin", "web-admin-ip"),
    **_no("no page to administrate by", "web-admin-port", "web-admin-listen-on-workers", "acme-redirect"),
    **_no("no DTLS: clients may use turns: over TCP", "dtls"),
    **_no("no mobility (RFC 8016): who changes networks makes a new allocation", "mobility"),
    **_no("no OAuth (RFC 7635): rest_secrets give passwords with a time", "oauth", "server-name"),
    **_no("no anonymous use: name users or rest_secrets", "no-auth"),
    **_no("UDP is always served, at listen", "no-udp"),
    **_no("TCP is always served, at listen: close the port by a firewall", "no-tcp"),
    **_no("UDP towards peers is what it relays", "no-udp-relay"),
    **_no("a Binding request is answered without credentials, as RFC 8489 has it", "secure-stun"),
    **_no("STUN and TURN are served together", "no-stun", "stun-only"),
    **_no("no NAT behaviour discovery (RFC 5780)", "rfc5780", "alt-listening-port", "alt-tls-listening-port"),
    **_no("without a wish IPv4 (RFC 8656)", "keep-address-family", "allocation-default-address-family"),
    **_no("peers are reached from the addresses of public", "relay-device", "server-relay"),
    **_no("listen has addresses, not interfaces", "listening-device"),
    **_no("client certificates are not asked for", "CA-file"),
    **_no("a key without a password is needed: openssl pkey -in OLD -out NEW, mode 0600", "pkey-pwd"),
    **_no("no raw public keys", "raw-public-keys"),
    **_no(_TLS, "cipher-list", "ec-curve-name", "dh-file", "dh566", "dh1066", "tlsv1", "tlsv1_1", "no-tlsv1_2"),
    **_no(_FIXED, "max-allocate-lifetime", "channel-lifetime", "permission-lifetime"),
    **_no("a nonce counts for an hour", "stale-nonce"),
    **_no("no check of ORIGIN", "check-origin-consistency"),
    **_no("each client has its own address and port per allocation", "multiplex-peer", "multiplex-peer-port"),
    **_no("each client has its own address and port per allocation", "multiplex-peer-max-peers"),
    **_no("nonces are signed by a key of the process; clients ask once more elsewhere", "stateless-nonce-secret"),
    **_no("old forms of STUN (RFC 3489) and TURN are not spoken", "rfc3489-compatibility", "rfc5766-channel-numbers"),
    **_no("old forms of STUN are not spoken", "stun-backward-compatibility"),
    **_no("what is no STUN is dropped and counted", "respond-http-unsupported"),
    **_no("all of the drain's time: POSTERN_DRAIN_SECONDS", "drain-min-allocations"),
    **_no("alternate is where clients go while this relay ends or is full, not always: see docs/relay.yaml",
          "alternate-server", "tls-alternate-server", "tcp-alternate-server", "udp-alternate-server"),
    **_no("name the proxy's addresses in trusted_proxies: their connections to listen and tls.listen then begin with"
          " PROXY protocol v2; there is no port of its own", "tcp-proxy-port"),
    **_no("loopback peers stay closed; peers.allow: [127.0.0.1:PORT] opens one service of this host to every user",
          "allow-loopback-peers"),
    **_elsewhere("RUST_LOG=debug, or postern relay admin log debug", "verbose", "Verbose", "log-binding"),
    **_elsewhere("RUST_LOG has the level", "log-min-level"),
    **_elsewhere(_LOG, "log-file", "syslog", "syslog-facility", "no-stdout-log", "simple-log", "new-log-timestamp"),
    **_elsewhere(_LOG, "new-log-timestamp-format"),
    **_elsewhere(_UNIT, "proc-user", "proc-group", "pidfile", "daemon"),
    **_elsewhere(_ADMIN, "cli", "cli-ip", "cli-port", "cli-password", "cli-max-output-sessions"),
    **_elsewhere("/metrics at HEALTH_CHECK_ADDR, port 8080", "prometheus", "prometheus-port", "prometheus-address"),
    **_elsewhere("/metrics at HEALTH_CHECK_ADDR, without TLS", "prometheus-path", "prometheus-tls", "prometheus-cert"),
    **_elsewhere("/metrics at HEALTH_CHECK_ADDR, without TLS", "prometheus-key"),
    **_elsewhere("no user is named in metrics", "prometheus-username-labels"),
    **_elsewhere("one process; POSTERN_EBPF_INTERFACES, or ebpf in the file, lets the kernel forward",
                 "relay-threads", "cpus", "udp-self-balance"),
    **_elsewhere("buffers are as large as the host allows: net.core.rmem_max", "sock-buf-size"),
    **_always("requests of a source are limited: quotas.requests_per_second_per_source", "unauthorized-ratelimit"),
    **_always("requests of a source are limited: quotas.requests_per_second_per_source", "unauthorized-ratelimit-rps"),
    **_always("long-term credentials are the only ones", "lt-cred-mech"),
    **_always("who sends FINGERPRINT gets one", "fingerprint"),
    **_always("no DTLS", "no-dtls"),
    **_always("no TCP towards peers (RFC 6062)", "no-tcp-relay"),
    **_always("multicast and loopback peers are refused", "no-multicast-peers", "no-loopback-peers"),
    **_always("TLS 1.2 is the oldest", "no-sslv3", "no-tlsv1", "no-tlsv1_1"),
    **_always("no NAT behaviour discovery (RFC 5780)", "no-rfc5780", "response-origin-only-with-rfc5780"),
    **_always("old forms of STUN are not spoken", "no-stun-backward-compatibility"),
    **_always("no command line of its own at a port", "no-cli"),
    **_always("SOFTWARE names no version", "no-software-attribute", "software-attribute"),
    **_always("nothing is stored for who has proven nothing", "stateless-nonce", "max-allocate-timeout"),
    **_always("users and ranges are those of the file", "no-dynamic-ip-list", "no-dynamic-realms", "no-auth-pings"),
    **_always("datagrams are read and sent in batches", "udp-recvmmsg", "udp-gso"),
    **_always("counted, not logged", "udp-recvmmsg-log", "udp-sendmmsg-log", "drop-invalid-packets-log"),
    **_always("what is no STUN and no channel data is dropped and counted", "drop-invalid-packets"),
    **_always("refusals have their reason phrase", "include-reason-string"),
    **_always("postern version", "version"),
}  # fmt: skip
