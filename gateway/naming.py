"""The parts of a gateway that speak DNS, as one: imported late, because dnspython takes a tenth of a second."""

from dataclasses import dataclass
from typing import Self

from connectivity.io.extension import Tasks
from gateway.nameservers import Nameservers
from gateway.resolver import OnResolved, Resolver
from gateway.site_dns import MayAsk, SiteDns
from gateway.system_names import SystemNames


@dataclass(frozen=True, slots=True)
class Naming:
    """Looks names up for the core, and serves the site's names to clients."""

    resolver: Resolver
    site: SiteDns

    @classmethod
    def make(cls, tasks: Tasks, mark: int, *, answer: OnResolved, may_ask: MayAsk, system: SystemNames | None) -> Self:
        """Both by one configuration of the host, by default the host's own."""
        names = system or SystemNames()
        nameservers = Nameservers(tasks.start, mark=mark, system=names)
        return cls(Resolver(answer, tasks.start, mark=mark, system=names), SiteDns(nameservers, tasks.start, may_ask))
