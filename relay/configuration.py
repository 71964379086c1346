"""What a relay serves, where and for whom: read from the environment under a portal, else from a file."""

import dataclasses
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.ranges import Network
from relay.core import Quotas
from relay.core.configuration import HIGHEST_RELAYED_PORT, LOWEST_RELAYED_PORT, REALM
from relay.core.peers import PeerRule

OffloadMode: TypeAlias = Literal["auto", "native", "generic"]

# In the offload's flow key, channel numbers and relayed ports share a field: ports must stay above all numbers.
LOWEST_OFFLOADED_PORT: Final = 32_768
# What counts from the next request on when the file is read again. The rest would need other sockets or programs.
_CHANGEABLE: Final = frozenset(
    {
        "users",
        "rest_secrets",
        "is_confidential",
        "peers_allow",
        "peers_deny",
        "quotas",
        "alternate",
        "certificate",
        "trusted_proxies",
    }
)


@dataclass(frozen=True, slots=True)
class OffloadWish:
    """Where and how hard to try to offload. ``native`` and ``generic`` are demands."""

    interfaces: tuple[str, ...]
    mode: OffloadMode
    internal: tuple[IPAddress, ...]
    generic_from_peer: bool


class Validity(NamedTuple):
    """From when until when a certificate counts."""

    begins: datetime
    ends: datetime


@dataclass(frozen=True, slots=True)
class Certificate:
    """The files of a certificate with its chain, and of its key."""

    certificate: Path
    key: Path

    def validity(self) -> Validity:
        """When the certificate itself counts, without its chain, as it is in the file now.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no certificate.
        """
        from cryptography import x509  # some megabytes that only a relay with TLS needs

        (certificate, *_) = x509.load_pem_x509_certificates(self.certificate.read_bytes())
        return Validity(certificate.not_valid_before_utc, certificate.not_valid_after_utc)

    def content(self) -> bytes:
        """What tells one certificate from another under the same name.

        Raises:
            OSError: the file cannot be read.
        """
        return self.certificate.read_bytes()

    def context(self) -> ssl.SSLContext:
        """What a TLS server needs, read now.

        Raises:
            OSError: a file cannot be read, or the two do not hold what they should (``ssl.SSLError``).
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key, password=_no_password)
        return context


@dataclass(frozen=True, slots=True)
class Configuration:
    """All of it, checked. ``listen`` is for UDP, with ``serves_tcp`` for TCP too; ``internal`` lies behind 1:1 NAT.

    ``is_confidential``: passwords stand in the file itself. ``trusted_proxies`` say for whom they connect.
    """

    public: Mapping[int, IPAddress]
    listen: tuple[Endpoint, ...]
    serves_tcp: bool = False
    tls_listen: tuple[Endpoint, ...] = ()
    certificate: Certificate | None = None
    realm: str = REALM
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    rest_secrets: tuple[str, ...] = field(default=(), repr=False)
    is_confidential: bool = False
    lowest_port: int = LOWEST_RELAYED_PORT
    highest_port: int = HIGHEST_RELAYED_PORT
    peers_allow: tuple[PeerRule, ...] = ()
    peers_deny: tuple[PeerRule, ...] = ()
    quotas: Quotas = field(default_factory=Quotas)
    alternate: Mapping[int, Endpoint] = field(default_factory=dict)
    trusted_proxies: tuple[Network, ...] = ()
    internal: tuple[IPAddress, ...] = ()
    offload: OffloadWish | None = None

    def differences(self, new: "Configuration") -> list[str]:
        """What ``new`` has more or less of, or otherwise, in words without a name or secret."""
        words = []
        for entry in dataclasses.fields(self):
            before, after = getattr(self, entry.name), getattr(new, entry.name)
            if before == after or entry.name == "is_confidential":
                continue
            counts = [len(value) if isinstance(value, (tuple, Mapping)) else None for value in (before, after)]
            words.append(
                f"{entry.name} {counts[0]} → {counts[1]}" if counts[0] != counts[1] else f"{entry.name} changed"
            )
        return words

    def changed_to(self, new: "Configuration") -> tuple["Configuration", list[str]]:
        """What of ``new`` can be had while running, and the names of what has to stay."""
        names = [entry.name for entry in dataclasses.fields(self)]
        different = [name for name in names if getattr(self, name) != getattr(new, name)]
        kept = [name for name in different if name not in _CHANGEABLE]
        if (self.certificate is None) != (new.certificate is None):
            kept.append("certificate")
        changes = {name: getattr(new, name) for name in different if name not in kept}
        return dataclasses.replace(self, **changes), kept


def port_problem(lowest: int, highest: int, *, offloads: bool) -> str | None:
    """What is wrong with a range of relayed ports, as the expectation."""
    if lowest > highest:
        return f"expected the first port to be at most the last, which is {highest}"
    if offloads and lowest < LOWEST_OFFLOADED_PORT:
        return f"expected at least {LOWEST_OFFLOADED_PORT} with offload on"
    return None


def _no_password() -> str:
    raise OSError("the key is encrypted: expected one without a password")
