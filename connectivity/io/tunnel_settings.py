"""The settings that client and gateway have in common."""

import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from connectivity import native
from connectivity.endpoint import Endpoint
from connectivity.io import logs
from connectivity.io.buffers import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES
from connectivity.io.export_settings import (
    NO_TELEMETRY,
    MetricsSettings,
    TelemetrySettings,
    read_exports,
    read_metrics_address,
)
from connectivity.io.log_file import LogFile
from connectivity.io.status_socket import read_status_socket
from connectivity.phoenix.login import parse_api_url
from connectivity.settings import LocalSocket, SettingsReader, integer, text_value, token_or_file

_buffer_size: Final = integer(1, (1 << 31) - 1)  # a C int
_UDP_OFFLOADS: Final = frozenset({"gso", "gro"})
_TUN_OFFLOADS: Final = frozenset({"tso", "uso"})


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """What client and gateway have in common."""

    api_url: str
    token: str = field(repr=False)
    name: str
    device_id: str
    status_address: Endpoint | None
    status_socket: LocalSocket
    log_filter: str
    log_format: str
    log_folder: Path | None
    raise_limits: bool
    send_buffer_bytes: int
    receive_buffer_bytes: int
    udp_offloads: frozenset[str]
    tun_offloads: frozenset[str]
    native: str
    metrics: MetricsSettings | None
    metrics_address: Endpoint | None = None
    telemetry: TelemetrySettings = NO_TELEMETRY


def read_tunnel_settings(
    reader: SettingsReader, service: str, *, token: str | None, default_api_url: str, raise_limits_by_default: bool
) -> TunnelSettings:
    """Declare and read the common settings; ``token`` None takes it from ``FIREZONE_TOKEN``."""
    if token is None:
        token = reader.required("FIREZONE_TOKEN", None, token_or_file, "the token, or the path of a file that holds it")
    api_url = reader.optional("FIREZONE_API_URL", "--api-url", parse_api_url, default_api_url, "URL of the portal")
    name = reader.optional("FIREZONE_NAME", "--firezone-name", text_value, "", "display name; default the host's name")
    device_id = reader.optional("FIREZONE_ID", "--firezone-id", text_value, "", "identity of this device")
    keep = reader.switch("FIREZONE_NO_INC_BUF", "--no-inc-buf", "leave rmem_max and wmem_max as they are")
    raised = reader.switch("FIREZONE_INC_BUF", "--inc-buf", "raise rmem_max and wmem_max", raise_limits_by_default)
    status = reader.optional("POSTERN_STATUS_ADDR", "--status-addr", _endpoint, None, "address:port for /status (JSON)")
    log_filter = reader.optional("RUST_LOG", "--log", _log_filter, "info", "such as info or debug,wire=trace")
    log_format = reader.optional("LOG_FORMAT", "--log-format", logs.read_form, logs.HUMAN, "human, json, google-cloud")
    reader.switch("FIREZONE_NO_TELEMETRY", "--no-telemetry", "accepted; there is no telemetry to turn off")
    metrics, telemetry = read_exports(reader)
    return TunnelSettings(
        api_url=api_url,
        token=token,
        name=name or socket.gethostname() or str(uuid.uuid4()),
        device_id=device_id,
        status_address=status,
        status_socket=read_status_socket(reader, service),
        log_filter=log_filter,
        log_format=log_format,
        log_folder=reader.optional(
            "LOG_DIR", "--log-dir", _folder, None, "folder for log files, beside standard error"
        ),
        raise_limits=raised and not keep,
        send_buffer_bytes=reader.optional(
            "FIREZONE_UDP_SEND_BUFFER_SIZE", None, _buffer_size, SEND_BUFFER_BYTES, "bytes to ask for"
        ),
        receive_buffer_bytes=reader.optional(
            "FIREZONE_UDP_RECV_BUFFER_SIZE", None, _buffer_size, RECEIVE_BUFFER_BYTES, "bytes to ask for"
        ),
        udp_offloads=reader.optional(
            "POSTERN_UDP_OFFLOADS", None, _words(_UDP_OFFLOADS), _UDP_OFFLOADS, "all, none or some"
        ),
        tun_offloads=reader.optional(
            "POSTERN_TUN_OFFLOADS", None, _words(_TUN_OFFLOADS), _TUN_OFFLOADS, "all, none or some"
        ),
        native=reader.optional(
            native.SETTING, "--native", _native, "auto", "auto: compiled helper if there is one; off"
        ),
        metrics=metrics,
        telemetry=telemetry,
        metrics_address=read_metrics_address(reader),
    )


def configure_logs(settings: TunnelSettings, service: str) -> None:
    """Log as the settings say from now on."""
    file = None if settings.log_folder is None else LogFile(settings.log_folder, f"postern-{service}")
    logs.configure(settings.log_filter, settings.log_format, file)


def _log_filter(text: str) -> str:
    logs.parse_filter(text)
    return text


def _folder(text: str) -> Path | None:
    if not Path(text).is_absolute():
        raise ValueError("expected an absolute path")
    return Path(text)


def _endpoint(text: str) -> Endpoint | None:
    return Endpoint.parse(text)


def _native(text: str) -> str:
    if text not in native.CHOICES:
        raise ValueError(f"expected {' or '.join(native.CHOICES)}")
    return text


def _words(known: frozenset[str]) -> Callable[[str], frozenset[str]]:
    def parse(text: str) -> frozenset[str]:
        if text in {"all", "none"}:
            return known if text == "all" else frozenset()
        words = frozenset(text.split(","))
        if not words <= known:
            raise ValueError(f"expected all, none or a list of {', '.join(sorted(known))}")
        return words

    return parse
