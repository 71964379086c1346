"""What the core is given of the configuration, at the start and when a file was read again."""

from typing import Final

from connectivity.endpoint import IPAddress
from connectivity.phoenix import COMPONENT_VERSIONS
from relay.configuration import Configuration
from relay.core import (
    CombinedCredentials,
    CredentialSource,
    PeerPolicy,
    RestCredentials,
    ServerSettings,
    StaticCredentials,
)
from relay.core.own import OwnAddresses
from relay.driver.addresses import always_own_addresses

SOFTWARE: Final = f"postern-relay/{COMPONENT_VERSIONS['relay']}"


def server_settings(configuration: Configuration, on_host: OwnAddresses, *, is_standalone: bool) -> ServerSettings:
    """What the core needs of them."""
    own = on_host | always_own_addresses(configuration)
    return ServerSettings(
        public=configuration.public,
        policy=PeerPolicy(not is_standalone, configuration.peers_allow, configuration.peers_deny, own),
        software=SOFTWARE,
        realm=configuration.realm,
        listen_ports=frozenset(endpoint.port for endpoint in (*configuration.listen, *configuration.tls_listen)),
        lowest_port=configuration.lowest_port,
        highest_port=configuration.highest_port,
        quotas=configuration.quotas,
        alternate=configuration.alternate,
        is_standalone=is_standalone,
    )


def relayed_at(configuration: Configuration, on_host: OwnAddresses) -> dict[int, IPAddress]:
    """By IP version, the one address of this host that peers shall see; where it is not said any of them will do."""
    return {version: ip for version, ip in configuration.public.items() if ip in on_host.addresses}


def credentials(configuration: Configuration) -> CredentialSource:
    """Who may use a stand-alone relay."""
    static, rest = StaticCredentials(configuration.users), RestCredentials(configuration.rest_secrets)
    if not configuration.rest_secrets:
        return static
    return CombinedCredentials(static, rest) if configuration.users else rest
