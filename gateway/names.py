"""Names that clients set up: each assignment of proxy addresses is checked, looked up, put in force and answered.

A client repeats an assignment until it is answered, and with each query of its own for the name: what is dropped here
comes again, and mappings follow the name's addresses. A name never leads to a device of the tunnel, to loopback or
link-local addresses, the gateway's own or a metadata service, whoever answers for it.
"""

import logging
from collections.abc import Callable
from typing import Final

from connectivity import p2p
from connectivity.clock import Instant
from connectivity.endpoint import IPAddress
from connectivity.ranges import is_proxy, is_special
from connectivity.role import RoleTunnel
from gateway.actions import ResolveDomain
from gateway.peers import ClientPeer
from gateway.reasons import GatewayDrop
from gateway.resolutions import Assignment, Resolutions, normalized
from gateway.resources import DnsResource

log = logging.getLogger("gateway")

LONGEST_NAME: Final = 253  # RFC 1035 §2.3.4, as text


class Names:
    """The names of all clients."""

    def __init__(self, tunnel: RoleTunnel, client: Callable[[str], ClientPeer | None]) -> None:
        self._tunnel = tunnel
        self._client = client
        self._resolutions = Resolutions()

    def __len__(self) -> int:
        """How many assignments wait for a look-up."""
        return len(self._resolutions)

    def handle_assigned(self, client: ClientPeer, event: p2p.AssignedIps, now: Instant) -> None:
        """A client wants these addresses to stand for a name."""
        assignment = Assignment(client.client_id, event.resource, event.domain, event.proxy_ips)
        problem = _problem(client, assignment)
        if problem is not None:
            fields = {"cid": client.client_id, "rid": str(event.resource), "reason": problem}
            log.info("Refusing a name", extra={"fields": fields})
            self._refuse(assignment, GatewayDrop.NAME_REFUSED, now)
        elif not client.lookups.take(1, now):
            self._tunnel.drops[GatewayDrop.NAME_OVER_BUDGET] += 1
        elif self._resolutions.is_full:
            self._tunnel.drops[GatewayDrop.NAMES_FULL] += 1
        else:
            name = self._resolutions.add(assignment, now)
            if name is not None:
                self._tunnel.act(ResolveDomain(name))

    def handle_resolution(self, domain: str, addresses: tuple[IPAddress, ...] | None, now: Instant) -> None:
        """The answer to ``ResolveDomain``: all addresses of the name, or None if it could not be had."""
        for assignment in self._resolutions.take(domain):
            self._conclude(assignment, addresses, now)

    def handle_timeout(self, now: Instant) -> None:
        """Give up what is never answered."""
        for assignment in self._resolutions.give_up(now):
            self._conclude(assignment, None, now)

    def _conclude(self, assignment: Assignment, addresses: tuple[IPAddress, ...] | None, now: Instant) -> None:
        client = self._client(assignment.client_id)
        if client is None:
            return
        if _problem(client, assignment) is not None:  # access may have ended meanwhile
            self._refuse(assignment, GatewayDrop.NAME_REFUSED, now)
        elif addresses is None:  # what stands, stands
            self._refuse(assignment, GatewayDrop.NAME_UNRESOLVED, now)
        elif not self._put_in_force(client, assignment, addresses):
            self._refuse(assignment, GatewayDrop.NAMES_FULL, now)
        else:
            self._tell(assignment, now, active=True)

    def _put_in_force(self, client: ClientPeer, assignment: Assignment, addresses: tuple[IPAddress, ...]) -> bool:
        """Let the addresses stand for the name; False if there is no place for it."""
        resource_id, domain = str(assignment.resource), normalized(assignment.domain)
        if client.names.is_renumbering(resource_id, domain, assignment.proxies):
            log.info("Client has numbered its names anew", extra={"fields": {"cid": client.client_id}})
            client.reset_names()
            self._tunnel.flows.forget(client.tag)
        has_room, forgotten = client.names.make_room(resource_id, domain)
        if forgotten is not None:
            self._tunnel.drops[GatewayDrop.NAME_FORGOTTEN] += 1
            log.debug("Forgetting a name", extra={"fields": {"cid": client.client_id, "domain": forgotten}})
        if not has_room:
            return False
        real = [address for address in addresses if self._may_stand_behind_a_name(address)]
        if client.assign(resource_id, domain, assignment.proxies, real):
            left_out = str(len(addresses) - len(real))
            fields = {"cid": client.client_id, "rid": resource_id, "domain": domain}
            fields |= {"addresses": ",".join(map(str, real)), "left_out": left_out}
            log.debug("Addresses of a name", extra={"fields": fields})
        return True

    def _may_stand_behind_a_name(self, address: IPAddress) -> bool:
        own = self._tunnel.interface
        return not is_special(address) and (own is None or address not in {own.ipv4, own.ipv6})

    def _refuse(self, assignment: Assignment, reason: GatewayDrop, now: Instant) -> None:
        self._tunnel.drops[reason] += 1
        self._tell(assignment, now, active=False)

    def _tell(self, assignment: Assignment, now: Instant, *, active: bool) -> None:
        status = p2p.DomainStatus(assignment.resource, assignment.domain, active)
        self._tunnel.send_control(assignment.client_id, status, now)


def _problem(client: ClientPeer, assignment: Assignment) -> str | None:
    """Why a client may not have this, if so."""
    resource = client.resource(str(assignment.resource))
    if not isinstance(resource, DnsResource):
        return "no such resource of names"
    if len(normalized(assignment.domain)) > LONGEST_NAME or not resource.names(assignment.domain):
        return "no name of the resource"
    proxies = assignment.proxies
    if len(proxies) not in p2p.PROXY_IP_COUNTS or len(set(proxies)) != len(proxies) or not all(map(is_proxy, proxies)):
        return "no proper proxy addresses"
    return None
