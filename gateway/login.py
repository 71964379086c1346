"""What a gateway tells its portal before anything else."""

from pathlib import Path
from typing import Final

from connectivity.io.identity import load_or_create
from connectivity.io.portal import read_system_info
from connectivity.io.tunnel_settings import TunnelSettings
from connectivity.key_pair import KeyPair
from connectivity.phoenix.login import PortalLogin, gateway_login, user_agent

TOPIC: Final = "gateway"
DEFAULT_ID_PATH: Final = Path("/var/lib/firezone/gateway_id")
MAX_PARTITION_SECONDS: Final = 15 * 60.0


def make_login(tunnel: TunnelSettings, keys: KeyPair) -> PortalLogin:
    """Where it logs in, and as whom."""
    return gateway_login(
        tunnel.api_url,
        token=tunnel.token,
        device_id=tunnel.device_id or load_or_create(DEFAULT_ID_PATH),
        name=tunnel.name,
        public_key=keys.public,
        user_agent=user_agent("gateway", read_system_info()),
    )
