"""What is allowed and unwise in a relay's configuration, in words that say what to do. Pure; the driver logs it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from connectivity.clock import SECOND, WallTime
from relay.configuration import Configuration, Validity
from relay.core.own import OwnAddresses

_SOON: Final = timedelta(days=7)
_LAST_PART: Final = 4  # of certificates that live for days only, the last quarter


class Advice(NamedTuple):
    """A constant phrase, and facts."""

    message: str
    fields: dict[str, object]


def advise(configuration: Configuration, on_host: OwnAddresses, *, is_standalone: bool) -> Iterator[Advice]:
    """What to say of a configuration on this host."""
    if is_standalone and configuration.public and 4 not in configuration.public:
        remedy = "name public.ipv4 or POSTERN_PUBLIC_ADDRESSES, unless all clients ask for IPv6"
        yield Advice("Without a public IPv4 address browsers get 440 from this relay", {"remedy": remedy})
    has_internal = {address.version for address in configuration.internal}
    for version, address in configuration.public.items():
        if address not in on_host.addresses and version not in has_internal:
            name = f"internal.ipv{version}" if is_standalone else f"EBPF_INT{version}_ADDR"
            remedy = f"behind 1:1 NAT name the host's own address as {name}, else correct the public one"
            yield Advice("No interface has this public address", {"address": str(address), "remedy": remedy})


def advise_of_certificate(validity: Validity, wall_now: WallTime) -> Advice | None:
    """What to say of a certificate that is being served."""
    now = datetime.fromtimestamp(wall_now / SECOND, UTC)
    fields: dict[str, object] = {"begins": validity.begins.isoformat(), "ends": validity.ends.isoformat()}
    remedy = {"remedy": "put a valid one in its place, then send SIGHUP"}
    if now > validity.ends:
        return Advice("The certificate for TLS has expired", fields | remedy)
    if now < validity.begins:
        return Advice(
            "The certificate for TLS is not valid yet", fields | {"remedy": "wait, or set the host's clock right"}
        )
    soon = min(_SOON, (validity.ends - validity.begins) / _LAST_PART)
    return Advice("The certificate for TLS ends soon", fields | remedy) if now > validity.ends - soon else None
