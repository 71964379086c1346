"""The portal's file for a lab: one site, the resource by its networks and by its name, policies, fresh tokens."""

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import yaml

from lab.plan import APP_NAME, PORTAL_PORT, RESOURCE

_TOKEN_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the parts log in with."""

    relay: str = field(repr=False)
    gateway: str = field(repr=False)
    client: str = field(repr=False)
    secret: str = field(repr=False)  # of the portal, so that a restart changes no address

    @classmethod
    def random(cls) -> Self:
        return cls(*(secrets.token_urlsafe(_TOKEN_BYTES) for _ in range(4)))


def write(path: Path, tokens: Tokens) -> None:
    """Write the file; only its owner reads it, as it holds tokens."""
    resources = {"resources over IPv4": RESOURCE.network, "resources over IPv6": RESOURCE.network6}
    entries = [
        {"name": name, "type": "cidr", "address": address, "sites": ["lab"]} for name, address in resources.items()
    ]
    entries.append({"name": APP_NAME, "type": "dns", "address": APP_NAME, "sites": ["lab"]})
    content = {
        "listen": f"0.0.0.0:{PORTAL_PORT}",
        "secret": tokens.secret,
        "sites": [{"name": "lab"}],
        "resources": entries,
        "policies": [{"resource": entry["name"], "groups": ["everyone"]} for entry in entries],
        "tokens": [
            {"type": "relay", "token": tokens.relay},
            {"type": "gateway", "token": tokens.gateway, "site": "lab"},
            {"type": "client", "token": tokens.client, "name": "user"},
        ],
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
