"""A deployment in one process under virtual time, and what it must do: the real cores, a network, a model beside them.

*Always:* nothing arrives that the book does not allow, nothing twice, nothing changed; what comes back is the answer to
what was sent; no core logs an error, raises, or wakes up without end.
*While nothing disturbs it:* what a client sends to a resource that it has reached is answered.
*After disturbances:* with everything in working order again, every resource is reached within ``RECOVERY``.
*In the end:* who has left is held by nobody.
"""

import logging
from collections.abc import Callable
from random import Random
from typing import Final

from connectivity.clock import MILLISECOND, SECOND, Duration
from connectivity.endpoint import IPAddress
from gateway.core import GatewayCore
from portal.configuration import DnsSettings, ResourceType, TokenType
from tests.simulation import deployment, device, names
from tests.simulation.book import Book
from tests.simulation.control import Portal
from tests.simulation.deployment import CLIENTS, GATEWAYS, OPEN_PORT, WARES
from tests.simulation.error_log import ErrorLog
from tests.simulation.forwarding import is_query
from tests.simulation.ledger import Ledger, Sent, clock
from tests.simulation.machines import NEVER, Relay, Tunneller
from tests.simulation.network import BEHAVIOURS, Network
from tests.simulation.questions import ADDRESSES, Question, Questions, is_answer
from tests.simulation.traffic import Kind, Letter

#: How long a resource may stay away when everything works again: a portal's back-off (90 s), then an idle path (102 s).
RECOVERY: Final = 200 * SECOND
RESOURCE_DELAY: Final = 2 * MILLISECOND


class World:
    """Begin with ``World(seed, …)``, then disturb it; every method that disturbs has a name that reads in a log."""

    def __init__(
        self,
        seed: int,
        homes: dict[str, str],
        versions: dict[str, tuple[int, ...]] | None = None,
        gateways: tuple[str, ...] = ("desk", "cellar"),
        relays: tuple[str, ...] = ("east",),
        latency_ms: int = 10,
    ) -> None:
        """``homes`` says by which kind of router clients and gateways are behind; "open" is none."""
        self.network = Network(Random(seed))
        self.random = self.network.random
        self.log = ErrorLog()
        logging.getLogger().addHandler(self.log)
        self.clients = tuple(name for name in CLIENTS if name in homes)
        self.book = Book(WARES, self.clients, self.network.now)
        self.zone = names.Zone()
        self.questions = Questions(self.clients)
        self.ledger = Ledger(self.book, self.zone)
        self.portal = Portal(self.network, self.book.configuration())
        self.relays: dict[str, Relay] = {}
        self.tunnellers: dict[str, Tunneller] = {}
        self.slowest: Duration = 0  # of all recoveries
        self._secrets = dict.fromkeys(relays, 1)
        self._moves = 0
        internet = self.network.add_place("internet", None, latency_ms * MILLISECOND)
        for index, name in enumerate(relays):
            relay = self.relays[name] = Relay(name, self.network, self.portal)
            self.network.move(relay.host, internet, deployment.relay_addresses(index))
            self.start(name)
        for name in (*self.clients, *gateways):
            kind = TokenType.CLIENT if name in self.clients else TokenType.GATEWAY
            entry = name if kind is TokenType.CLIENT else GATEWAYS[name]
            machine = self.tunnellers[name] = Tunneller(
                name,
                kind,
                entry,
                self.network,
                self.portal,
                self._arrived,
                self.zone.resolve,
                self.questions.told_over_tcp,
            )
            self._settle_in(machine, homes.get(name, "open"), (versions or {}).get(name, (4, 6)), latency_ms)
            machine.start()
        self.advance(2 * SECOND)

    # Time ------------------------------------------------------------------------------------------------------------

    def advance(self, duration: Duration) -> None:
        """Let time pass; every datagram, frame and timer in between happens, in order."""
        network, portal, relays, tunnellers = self.network, self.portal, self.relays, self.tunnellers
        machines: tuple[Portal | Relay | Tunneller, ...] = (portal, *relays.values(), *tunnellers.values())
        until = network.now + duration
        while True:
            links = portal.links
            own = min(each.due for each in machines)
            due = min(network.next_event(), own, min((link.due for link in links), default=NEVER))
            if due > until:
                break
            network.now = max(network.now, due)
            network.run_due()
            for each in machines:
                if each.due <= network.now:
                    each.handle_timeout()
            for link in list(links):
                if link.due <= network.now:
                    link.handle_timeout()
        network.now = until
        self.check()

    def check(self) -> None:
        """What must be true at any time, and what is owed by now."""
        self.log.check()
        self.ledger.check(self.network.now)
        self.questions.check(self.network.now)
        for client in self.clients:
            device.check(self.book, self.tunnellers[client])

    # Traffic ---------------------------------------------------------------------------------------------------------

    def send(
        self, client: str, resource: str, kind: Kind, *, port: int | None = None, size: int = 0, spoofed: bool = False
    ) -> Sent | None:
        """A client's host sends one packet to a resource's address; None where it has no tunnel."""
        target = self.book.ware(resource).host(5 if port is None else 6)
        return self._send(client, target, kind, port=port, size=size, spoofed=spoofed)

    def send_regardless(self, client: str, resource: str, kind: Kind, port: int) -> None:
        """A client's program that is not ours sends through every connection, whatever it was told that it may."""
        machine = self.tunnellers[client]
        for connection in [] if machine.core is None else machine.core.connections():
            letter = self._letter(client, self.book.ware(resource).host(5), kind, port)
            if letter is not None and machine.core is not None:
                sent = self.ledger.send(letter, client, self.network.now)
                machine.core._tunnel.node.send(connection.peer_id, sent.request, 0, self.network.now)
                machine.drain()

    def send_to_name(self, client: str, name: str, version: int, kind: Kind, size: int = 0) -> Sent | None:
        """A client's program sends one packet to what it was told that a name has; None where it was told nothing."""
        known = self.questions.programs[client].proxies.get((name, version))
        return None if known is None else self._send(client, known[0], kind, size=size, name=name)

    def ask(
        self, client: str, name: str, type_: str, *, over_tcp: bool = False, of_last: bool = False
    ) -> Question | None:
        """A client's program asks its first or last sentinel for a name; None where it has none.

        The answer is owed where all works that it needs.
        """
        machine = self.tunnellers[client]
        own = machine.configured
        if own is None or not own.sentinels:
            return None
        asked = self.questions.ask(client, own, name, type_, over_tcp=over_tcp, of_last=of_last)
        if device.owes_answer(self.book, self.ledger, machine, asked):
            self.questions.owe(asked, self.network.now)
        if over_tcp:
            machine.ask_over_tcp(asked.number, asked.sentinel, asked.message().to_wire())
        else:
            machine.send(self.questions.packet(asked, own))
        return asked

    def _send(
        self,
        client: str,
        target: IPAddress,
        kind: Kind,
        *,
        port: int | None = None,
        size: int = 0,
        spoofed: bool = False,
        name: str | None = None,
    ) -> Sent | None:
        letter = self._letter(client, target, kind, OPEN_PORT[kind] if port is None else port, size)
        if letter is None:
            return None
        sent = self.ledger.send(
            letter, client, self.network.now, source=letter.client + 77 if spoofed else None, name=name
        )
        self.tunnellers[client].send(sent.request)
        return sent

    def _letter(self, client: str, target: IPAddress, kind: Kind, port: int, size: int = 0) -> Letter | None:
        """The next packet of a client's host; None where it has no tunnel."""
        configured = self.tunnellers[client].configured
        if configured is None:
            return None
        own = configured.interface.ipv4 if target.version == 4 else configured.interface.ipv6
        return Letter(kind, own, target, 40_000, port, self.ledger.next_number, size)

    def reach(self, client: str, resource: str, within: Duration = RECOVERY) -> None:
        """A host that repeats itself gets an answer from a resource in time."""
        self._repeat(client, resource, lambda: self.send(client, resource, Kind.UDP), within)

    def reach_name(self, client: str, name: str, version: int, within: Duration = RECOVERY) -> None:
        """The same for a name, which is asked for again before each attempt."""

        def attempt() -> Sent | None:
            self.ask(client, name, ADDRESSES[version])
            return self.send_to_name(client, name, version, Kind.UDP)

        self._repeat(client, f"{name}/{version}", attempt, within)

    def _repeat(self, client: str, what: str, attempt: Callable[[], Sent | None], within: Duration) -> None:
        begun = self.network.now
        attempts: list[Sent] = []
        while self.network.now - begun < within:
            sent = attempt()
            attempts += [] if sent is None else [sent]
            self.advance(SECOND if len(attempts) < 10 else 3 * SECOND)
            if any(attempt.answers for attempt in attempts):
                self.ledger.reached.add((client, what))
                self.slowest = max(self.slowest, self.network.now - begun)
                return
        everybody = "; ".join(map(str, self.tunnellers.values()))
        raise AssertionError(f"{client} does not reach {what} since {clock(begun)}: {everybody}")

    def is_reachable(self, client: str, resource: str) -> bool:
        """Whether all works that a client needs for a resource."""
        ware = self.book.page.wares.get(resource)
        if ware is None or not self.book.may_use(client, resource, self.network.now, margin=RECOVERY // SECOND):
            return False
        if ware.type is ResourceType.DNS and not self.tunnellers[client].resolvers and not self.book.page.dns.upstream:
            return False
        if self.portal.core is None or not ware.lets(Kind.UDP, OPEN_PORT[Kind.UDP]):
            return False
        gateways = [name for name in self.tunnellers if GATEWAYS.get(name) == ware.site]
        return all(self._works(self._machine(name)) for name in (client, *gateways, *self.relays))

    def _arrived(self, machine: Tunneller, packet: bytes) -> None:
        """What a machine's kernel gets out of the tunnel; a gateway's hands it to the resource, which answers."""
        now = self.network.now
        if machine.kind is TokenType.CLIENT:
            if is_answer(packet):
                self.questions.told_by_packet(machine.name, packet)
            elif machine.forwarding is None or not machine.forwarding.takes(packet):
                self.ledger.arrived_at_client(machine.name, packet, now)
            return
        link, core = machine.link, machine.core
        assert link is not None, "what runs has a link"
        heard = now if link.is_live else link.live_until
        site = GATEWAYS[machine.name]
        if is_query(packet):
            assert isinstance(core, GatewayCore), "what a gateway runs"
            reply = self.ledger.asked_at_gateway(
                machine.name, site, heard, packet, now, client_at=self._client_at, may_ask=core.may_ask
            )
        else:
            reply = self.ledger.arrived_at_gateway(machine.name, site, heard, packet, now).answer()

        def answer() -> None:
            if machine.core is core:
                machine.send(reply)

        self.network.at(RESOURCE_DELAY, answer)

    # Disturbances ----------------------------------------------------------------------------------------------------

    def disturbed(self) -> None:
        """From here on nothing is owed until it has worked again."""
        self.ledger.disturbed()
        self.questions.disturbed()

    def cut(self, name: str) -> None:
        """A machine's cable is out."""
        self._interrupted(name).host.is_cut = True

    def plug(self, name: str) -> None:
        """The cable is in again."""
        self._machine(name).host.is_cut = False
        self._resume(name)

    def cut_control(self, name: str) -> None:
        """A machine does not reach the portal."""
        self._interrupted(name).is_control_cut = True

    def mend_control(self, name: str) -> None:
        """It does again."""
        self._machine(name).is_control_cut = False
        self._resume(name)

    def stop(self, name: str) -> None:
        """A client signs out, or a gateway is stopped: with a goodbye."""
        if self.tunnellers[name].core is not None:
            self.tunnellers[name].stop()

    def kill(self, name: str) -> None:
        """A process is gone without a word."""
        machine = self._machine(name)
        if machine.core is not None:
            machine.kill()
        if name in self.clients:
            self.questions.forget(name)

    def start(self, name: str) -> None:
        """A process with nothing remembered."""
        machine = self._machine(name)
        if machine.core is not None:
            return
        if isinstance(machine, Relay):
            machine.start(f"secret of {name}, {self._secrets[name]}")
        else:
            machine.start()

    def restart_relay(self, name: str, *, new_secret: bool, new_address: bool) -> None:
        """A relay's process ends and another begins at once."""
        self.kill(name)
        self._secrets[name] += new_secret
        if new_address:
            self._moves += 1
            internet = self.network.places["internet"]
            self.network.move(self.relays[name].host, internet, deployment.relay_addresses(10 + self._moves))
        self.start(name)

    def reboot_router(self, name: str) -> None:
        """A router forgets its mappings."""
        place = self.tunnellers[name].host.place
        if place is not None and place.router is not None:
            place.router.reboot()

    def weather(self, name: str, *, loss: float = 0.0, doubling: float = 0.0, jitter_ms: int = 0) -> None:
        """The network at a machine's place is this bad."""
        place = self.tunnellers[name].host.place
        assert place is not None, "every machine is somewhere"
        place.loss, place.doubling, place.jitter = loss, doubling, jitter_ms * MILLISECOND

    def move(self, name: str, behaviour: str, versions: tuple[int, ...]) -> None:
        """A machine is at another place with other addresses."""
        self._interrupted(name)
        self._settle_in(self.tunnellers[name], behaviour, versions, 10)

    def roam(self, name: str, behaviour: str, versions: tuple[int, ...], notice: Duration) -> None:
        """A machine moves while its process runs, which notices it after a while."""
        self.move(name, behaviour, versions)
        self.advance(notice)
        self.tunnellers[name].reset(moved=True)

    def write(self) -> None:
        """The portal reads its file again."""
        self.portal.apply(self.book.configuration())

    def name_servers(self, settings: DnsSettings) -> None:
        """The portal tells clients so."""
        self.book.serve_names(settings, self.network.now)
        self.write()

    # The end ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """This world is over."""
        logging.getLogger().removeHandler(self.log)

    # Private ---------------------------------------------------------------------------------------------------------

    def _machine(self, name: str) -> Relay | Tunneller:
        return self.relays[name] if name in self.relays else self.tunnellers[name]

    def _client_at(self, address: IPAddress) -> str:
        (client,) = (name for name in self.clients if address in self.tunnellers[name].addresses)
        return client

    def _interrupted(self, name: str) -> Relay | Tunneller:
        """A machine that is about to lose the portal: until now it has heard it."""
        machine = self._machine(name)
        if machine.link is not None:
            machine.link.note_liveness()
        return machine

    def _resume(self, name: str) -> None:
        link = self._machine(name).link
        if link is not None:
            link.resume()

    def _works(self, machine: Relay | Tunneller) -> bool:
        place = machine.host.place
        if machine.core is None or place is None or machine.host.is_cut or machine.is_control_cut:
            return False
        return not (place.loss or place.doubling or place.jitter)

    def _settle_in(self, machine: Tunneller, behaviour: str, versions: tuple[int, ...], latency_ms: int) -> None:
        self._moves += 1
        number = self._moves
        kind = None if behaviour == "open" else BEHAVIOURS[behaviour]
        place = self.network.add_place(
            f"place {number}", kind, latency_ms * MILLISECOND, deployment.outside_address(number)
        )
        own = deployment.home_addresses(number, kind)
        machine.move(place, tuple(own[version] for version in versions))
