"""The simulated world as a state machine of hypothesis: what may happen to a deployment, in any order.

A failing case prints its steps as calls of this class: pasted into a test they replay it (``test_simulated_histories``
has some). Steps that make no sense at their moment do nothing, so that a case can be shortened.
"""

from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from connectivity.clock import SECOND
from connectivity.endpoint import Endpoint
from portal.configuration import NEVER as ALWAYS
from portal.configuration import DnsSettings
from tests.simulation.deployment import CLIENTS, CLOSED_PORT, GATEWAYS, NAMES, PLACES, RELAYS, WARES
from tests.simulation.forwarding import SYSTEM_SERVERS, UPSTREAM_SERVERS, servers
from tests.simulation.healing import ask_everything, heal, reach_everything
from tests.simulation.leftovers import leave
from tests.simulation.names import FIRST, LONG, PUBLIC
from tests.simulation.network import BEHAVIOURS, EPOCH
from tests.simulation.questions import TYPES
from tests.simulation.traffic import Kind
from tests.simulation.world import World

_HOMES: Final = ("open", *BEHAVIOURS)
_VERSIONS: Final = ((4, 6), (4,), (6,))
_ENDS: Final = (*CLIENTS, *GATEWAYS)
_PAUSES: Final = (0.0, 0.004, 0.3, 2.0)  # seconds after a step: none, in the middle of an exchange, after it

clients: Final = st.sampled_from(CLIENTS)
gateways: Final = st.sampled_from(sorted(GATEWAYS))
ends: Final = st.sampled_from(_ENDS)
relays: Final = st.sampled_from(RELAYS)
machines: Final = st.sampled_from((*_ENDS, *RELAYS))
resources: Final = st.sampled_from([ware.name for ware in WARES])
places: Final = st.sampled_from(PLACES)
domains: Final = st.sampled_from(NAMES)
families: Final = st.sampled_from((4, 6))
kinds: Final = st.sampled_from([kind.value for kind in Kind])
questions: Final = st.tuples(
    st.sampled_from((*NAMES, PUBLIC, LONG)), st.sampled_from(TYPES), st.booleans(), st.booleans()
)
pauses: Final = st.sampled_from(_PAUSES)
homes: Final = st.sampled_from(_HOMES)
versions: Final = st.sampled_from(_VERSIONS)


class SimulatedWorld(RuleBasedStateMachine):
    """Two clients at most, three gateways of two sites, two relays, one portal."""

    world: World

    @initialize(
        seed=st.integers(0, 999),
        home=st.fixed_dictionaries(
            {"alice": homes, "desk": homes, "cellar": homes}, optional={"bob": homes, "attic": homes}
        ),
        addresses=st.dictionaries(ends, versions, max_size=2),
        relay_count=st.integers(1, len(RELAYS)),
        in_use=st.booleans(),
    )
    def build(
        self,
        seed: int,
        home: dict[str, str],
        addresses: dict[str, tuple[int, ...]],
        relay_count: int,
        in_use: bool = False,
    ) -> None:
        """A deployment that has just been set up, or in which everybody has reached every resource."""
        present = tuple(name for name in GATEWAYS if name in home)
        self.world = World(seed, home, versions=addresses, gateways=present, relays=RELAYS[:relay_count])
        if in_use:
            for client in self.world.clients:
                for place in PLACES:
                    self.world.reach(client, place)

    # Calm: whoever has reached something still does ------------------------------------------------------------------

    @rule(client=clients, resource=places, kind=kinds, size=st.sampled_from((0, 1100)), then=pauses)
    def send(self, client: str, resource: str, kind: str, size: int, then: float) -> None:
        """One packet."""
        world = self.world
        if client in world.tunnellers:
            sent = world.send(client, resource, Kind(kind), size=size)
            if sent is not None and (client, resource) in world.ledger.reached:
                is_open = world.book.ware(resource).lets(sent.letter.kind, sent.letter.port)
                world.ledger.owe(sent, world.network.now, is_refusal=not is_open)
            self._pause(then)

    @rule(client=clients, kind=st.sampled_from(["tcp", "udp"]), then=pauses)
    def send_to_closed_port(self, client: str, kind: str, then: float) -> None:
        """One packet that the resource's filters refuse."""
        world = self.world
        if client in world.tunnellers:
            sent = world.send(client, "racks", Kind(kind), port=CLOSED_PORT[Kind(kind)])
            if sent is not None and (client, "racks") in world.ledger.reached:
                world.ledger.owe(sent, world.network.now, is_refusal=True)
            self._pause(then)

    @rule(client=clients, name=domains, version=families, kind=kinds, then=pauses)
    def send_to_name(self, client: str, name: str, version: int, kind: str, then: float) -> None:
        """One packet to what a name had when it was asked for."""
        world = self.world
        if client in world.tunnellers:
            sent = world.send_to_name(client, name, version, Kind(kind))
            if sent is not None and (client, f"{name}/{version}") in world.ledger.reached:
                is_open = world.book.ware(FIRST[name][0]).lets(sent.letter.kind, sent.letter.port)
                world.ledger.owe(sent, world.network.now, is_refusal=not is_open)
            self._pause(then)

    @rule(client=clients, asked=st.lists(questions, min_size=1, max_size=4), then=pauses)
    def ask(self, client: str, asked: list[tuple[str, str, bool, bool]], then: float) -> None:
        """Programs ask their name servers: for what, over TCP or not, the last server or the first."""
        if client in self.world.tunnellers:
            for name, kind, over_tcp, of_last in asked:
                self.world.ask(client, name, kind, over_tcp=over_tcp, of_last=of_last)
            self._pause(then)

    @rule(client=clients, resolvers=st.sampled_from(SYSTEM_SERVERS), then=pauses)
    def use_resolvers(self, client: str, resolvers: tuple[str, ...], then: float) -> None:
        """A client's host gets other name servers, or none: nothing else changes."""
        world = self.world
        if client in world.tunnellers:
            world.tunnellers[client].use_resolvers(servers(resolvers))
            self._pause(then)

    @rule(upstream=st.sampled_from(UPSTREAM_SERVERS), search_domain=st.sampled_from((None, "office.test")), then=pauses)
    def name_servers(self, upstream: tuple[str, ...], search_domain: str | None, then: float) -> None:
        """The portal names other servers, or none, and another search domain: nothing else changes."""
        world = self.world
        settings = DnsSettings(tuple(map(Endpoint.parse, upstream)), search_domain)
        world.name_servers(settings)
        self._pause(then)

    @rule(client=clients, resource=places)
    def send_spoofed(self, client: str, resource: str) -> None:
        """One packet with another's address."""
        if client in self.world.tunnellers:
            self.world.send(client, resource, Kind.UDP, spoofed=True)

    @rule(seconds=st.sampled_from((0.05, 1.0, 7.0, 21.0, 70.0, 190.0, 400.0)))
    def wait(self, seconds: float) -> None:
        """Nothing happens."""
        self._pause(seconds)

    @rule(client=clients, name=domains, version=families)
    def reach_name(self, client: str, name: str, version: int) -> None:
        """A client uses a name until it works, if all works that it needs."""
        world = self.world
        if client in world.tunnellers and world.is_reachable(client, FIRST[name][0]) and world.zone.has(name, version):
            world.reach_name(client, name, version)

    @rule(client=clients, resource=places)
    def reach(self, client: str, resource: str) -> None:
        """A client uses a resource until it works, if all works that it needs."""
        world = self.world
        if client in world.tunnellers and world.is_reachable(client, resource):
            world.reach(client, resource)

    @rule(name=ends, seconds=st.sampled_from((0.5, 6.0, 35.0)))
    def lose_portal(self, name: str, seconds: float) -> None:
        """A client or gateway does not reach the portal for a while."""
        if name in self.world.tunnellers:
            self.world.cut_control(name)
            self._pause(seconds)
            self.world.mend_control(name)

    @rule(client=clients, resource=places, kind=kinds, port=st.sampled_from((0, 53, 80, 8080)), then=pauses)
    def send_regardless(self, client: str, resource: str, kind: str, port: int, then: float) -> None:
        """A client that obeys nobody sends one packet through every gateway that it is connected to."""
        if client in self.world.tunnellers:
            self.world.send_regardless(client, resource, Kind(kind), port)
            self._pause(then)

    @rule(count=st.sampled_from((1, 20)), elsewhere=st.booleans(), then=pauses)
    def replay(self, count: int, elsewhere: bool, then: float) -> None:
        """Somebody sends again what he has heard."""
        self.world.network.replay(count, elsewhere=elsewhere)
        self._pause(then)

    # Disturbances ----------------------------------------------------------------------------------------------------

    @rule(name=machines, then=pauses)
    def cut(self, name: str, then: float) -> None:
        """A cable is pulled."""
        self._disturb("cut", name, then)

    @rule(name=machines, then=pauses)
    def plug(self, name: str, then: float) -> None:
        """A cable is put in."""
        self._disturb("plug", name, then)

    @rule(name=machines, then=pauses)
    def cut_control(self, name: str, then: float) -> None:
        """A machine loses the portal for longer."""
        self._disturb("cut_control", name, then)

    @rule(name=machines, then=pauses)
    def mend_control(self, name: str, then: float) -> None:
        """A machine reaches the portal again."""
        self._disturb("mend_control", name, then)

    @rule(name=ends, then=pauses)
    def stop(self, name: str, then: float) -> None:
        """A client signs out; a gateway is stopped."""
        self._disturb("stop", name, then)

    @rule(name=machines, then=pauses)
    def kill(self, name: str, then: float) -> None:
        """A process dies."""
        self._disturb("kill", name, then)

    @rule(name=machines, then=pauses)
    def start(self, name: str, then: float) -> None:
        """A process is there again."""
        self._disturb("start", name, then)

    @rule(name=relays, new_secret=st.booleans(), new_address=st.booleans(), then=pauses)
    def restart_relay(self, name: str, new_secret: bool, new_address: bool, then: float) -> None:
        """A relay begins anew."""
        world = self.world
        if name in world.relays and world.relays[name].core is not None:
            world.disturbed()
            world.restart_relay(name, new_secret=new_secret, new_address=new_address)
            self._pause(then)

    @rule(seconds=st.sampled_from((0.0, 1.0, 10.0, 80.0)), new_secret=st.booleans(), then=pauses)
    def restart_portal(self, seconds: float, then: float, new_secret: bool = False) -> None:
        """The portal is away, and has forgotten everything when it is back, perhaps its secret too."""
        world = self.world
        world.disturbed()
        world.portal.stop()
        self._pause(seconds)
        world.book.secret += " again" if new_secret else ""
        world.write()
        world.portal.start()
        self._pause(then)

    @rule(name=ends, then=pauses)
    def reboot_router(self, name: str, then: float) -> None:
        """A router forgets what it knew."""
        self._disturb("reboot_router", name, then)

    @rule(name=ends, loss=st.sampled_from((0.0, 0.05, 0.5)), doubling=st.sampled_from((0.0, 0.2)), then=pauses)
    def weather(self, name: str, loss: float, doubling: float, then: float) -> None:
        """Somewhere the network is bad, or good again."""
        world = self.world
        if name in world.tunnellers:
            world.disturbed()
            world.weather(name, loss=loss, doubling=doubling, jitter_ms=30 if loss or doubling else 0)
            self._pause(then)

    @rule(name=ends, home=homes, addresses=versions, then=pauses)
    def move(self, name: str, home: str, addresses: tuple[int, ...], then: float) -> None:
        """A machine comes up at another place: its processes begin anew there."""
        world = self.world
        if name in world.tunnellers:
            world.disturbed()
            world.kill(name)
            world.move(name, home, addresses)
            self._pause(then)
            world.start(name)

    @rule(name=clients, home=homes, addresses=versions, notice=st.sampled_from((0.0, 0.3, 5.0)), then=pauses)
    def roam(self, name: str, home: str, addresses: tuple[int, ...], notice: float, then: float) -> None:
        """A laptop is carried to another network."""
        world = self.world
        if name in world.tunnellers:
            world.disturbed()
            world.roam(name, home, addresses, round(notice * SECOND))
            self._pause(then)

    @rule(name=ends, then=pauses)
    def hang_up(self, name: str, then: float) -> None:
        """A process gets SIGHUP, and begins anew where it is."""
        world = self.world
        if name in world.tunnellers:
            world.disturbed()
            world.tunnellers[name].reset(moved=False)
            self._pause(then)

    @rule(
        name=domains,
        addresses=st.sampled_from((None, (), ("10.50.0.9",), ("2001:db8:50::9",), ("10.50.0.5", "10.50.0.6"))),
    )
    def change_name(self, name: str, addresses: tuple[str, ...] | None) -> None:
        """A name stands for something else."""
        self.world.disturbed()
        self.world.zone.put(name, addresses)

    # Who may do what -------------------------------------------------------------------------------------------------

    @rule(client=clients, resource=resources, seconds=st.sampled_from((0, 3, 100)), then=pauses)
    def grant(self, client: str, resource: str, seconds: int, then: float) -> None:
        """A client may use a resource, for so long or (0) for good."""
        world = self.world
        if client in world.tunnellers:
            end = ALWAYS if not seconds else (EPOCH + world.network.now) // SECOND + seconds
            world.disturbed()
            world.book.grant(client, resource, end, world.network.now)
            world.write()
            self._pause(then)
            if seconds == 3:
                self._pause(seconds)
                self._try_regardless(resource)

    @rule(client=clients, resource=resources, then=pauses)
    def revoke(self, client: str, resource: str, then: float) -> None:
        """A client may not use a resource any more."""
        world = self.world
        if client in world.tunnellers:
            world.disturbed()
            world.book.revoke(client, resource, world.network.now)
            world.write()
            self._pause(then)
            self._try_regardless(resource)

    @rule(resource=resources, then=pauses)
    def delete(self, resource: str, then: float) -> None:
        """A resource is no more."""
        world = self.world
        world.disturbed()
        world.book.remove(resource, world.network.now)
        world.write()
        self._pause(then)
        self._try_regardless(resource)

    @rule(resource=resources, is_filtered=st.booleans(), is_elsewhere=st.booleans(), then=pauses)
    def change(self, resource: str, is_filtered: bool, is_elsewhere: bool, then: float) -> None:
        """A resource is as it was at first, but for its filters and its network."""
        world = self.world
        world.disturbed()
        world.book.change(resource, is_filtered=is_filtered, is_elsewhere=is_elsewhere, now=world.network.now)
        world.write()
        self._pause(then)
        self._try_regardless(resource)

    def teardown(self) -> None:
        """With everything in order again, every resource is reached, and what is left at the end is nothing."""
        if not hasattr(self, "world"):
            return
        world = self.world
        try:
            world.check()
            heal(world)
            reach_everything(world)
            ask_everything(world)
            leave(world)
        finally:
            world.close()

    # Private ---------------------------------------------------------------------------------------------------------

    def _pause(self, seconds: float) -> None:
        self.world.advance(round(seconds * SECOND))

    def _try_regardless(self, resource: str) -> None:
        """Clients that obey nobody try at once whether they are let through."""
        if resource in PLACES:
            for client in self.world.clients:
                self.world.send_regardless(client, resource, Kind.UDP, 53)
            self._pause(0.3)

    def _disturb(self, what: str, name: str, then: float) -> None:
        world = self.world
        if name in world.tunnellers or name in world.relays:
            world.disturbed()
            getattr(world, what)(name)
            self._pause(then)
