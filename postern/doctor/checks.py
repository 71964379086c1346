"""All that the doctor looks at. A check more is a line in ``CHECKS``."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from postern.doctor import host, start_up
from postern.doctor.finding import Finding


@dataclass(frozen=True, slots=True)
class Check:
    """A concern of some services; ``tries`` says what is done about it, ``examine`` does it and changes nothing."""

    concern: str
    services: frozenset[str]
    tries: str
    examine: Callable[[], list[Finding]]


def _check(concern: str, services: str, tries: str, examine: Callable[[], list[Finding]]) -> Check:
    return Check(concern, frozenset(services.split()), tries, examine)


CHECKS: Final[tuple[Check, ...]] = (
    _check("relay offload (XDP)", "relay", "kernel, bpf(2), privileges, bcc and kernel headers", host.offload),
    _check("tunnel device", "gateway client", "a device with addresses and routes, marked sockets", host.tunnel),
    _check("gateway masquerading", "gateway", "nft, forwarding, what other tables drop", host.masquerading),
    _check("source validation", "gateway client", "rp_filter and src_valid_mark", host.source_validation),
    _check("DNS of this host", "client", "the chosen FIREZONE_DNS_CONTROL, or its default", host.dns_control),
    _check("compiled helper", "gateway client", "to load it", host.compiled_helper),
    _check("UDP sockets", "relay gateway client", "offloads and buffers", host.udp),
    *(
        _check(
            f"settings of the {service}",
            service,
            "its settings, its ports, the way to its portal",
            partial(start_up.examine, service),
        )
        for service in ("relay", "gateway", "client", "portal")
    ),
)
