"""The portal's control channel: Phoenix v1 frames, the channel's state machine, the login and the back-off."""

from connectivity.phoenix.backoff import Backoff
from connectivity.phoenix.channel import (
    ChannelEvent,
    ChannelState,
    Joined,
    LoginFailed,
    Lost,
    MessageReceived,
    PhoenixChannel,
)
from connectivity.phoenix.failure import PortalFatal, Transient, classify_status
from connectivity.phoenix.login import (
    COMPONENT_VERSIONS,
    DEFAULT_API_URL,
    PortalLogin,
    SystemInfo,
    client_login,
    external_id,
    gateway_login,
    parse_api_url,
    relay_login,
    user_agent,
)
from connectivity.phoenix.message import Json, Message, MessageError

__all__ = [
    "COMPONENT_VERSIONS",
    "DEFAULT_API_URL",
    "Backoff",
    "ChannelEvent",
    "ChannelState",
    "Joined",
    "Json",
    "LoginFailed",
    "Lost",
    "Message",
    "MessageError",
    "MessageReceived",
    "PhoenixChannel",
    "PortalFatal",
    "PortalLogin",
    "SystemInfo",
    "Transient",
    "classify_status",
    "client_login",
    "external_id",
    "gateway_login",
    "parse_api_url",
    "relay_login",
    "user_agent",
]
