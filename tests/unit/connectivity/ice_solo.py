"""One agent, an imagined peer, and the messages that such a peer would send."""

from connectivity.endpoint import Endpoint
from connectivity.ice import Agent, AgentState, Candidate, Event, parse
from connectivity.run import Transmit
from connectivity.stun import (
    Attribute,
    IceControlled,
    IceControlling,
    Message,
    MessageClass,
    Method,
    Priority,
    Username,
    XorMappedAddress,
    decode,
    encode,
)
from tests.unit.connectivity.ice_pair import CLIENT, GATEWAY, START, counting_rng

OURS = Endpoint.parse("10.0.0.1:52625")
THEIRS = Endpoint.parse("192.0.2.1:52625")
OTHER = Endpoint.parse("192.0.2.2:4000")
RELAYED = Endpoint.parse("203.0.113.1:50000")


def make_agent(*, controlling: bool = True) -> Agent:
    local, remote = (CLIENT, GATEWAY) if controlling else (GATEWAY, CLIENT)
    return Agent(controlling=controlling, local=local, remote=remote, rng=counting_rng("agent"), now=START)


def connected_agent(*, controlling: bool = True) -> Agent:
    """With one host pair whose first check has left already."""
    agent = make_agent(controlling=controlling)
    agent.add_local_candidate(Candidate.host(OURS))
    agent.add_remote_candidate(parse(Candidate.host(THEIRS).to_text()), START)
    agent.handle_timeout(START)
    return agent


def transmits(agent: Agent) -> list[Transmit]:
    drained: list[Transmit] = []
    while (transmit := agent.poll_transmit()) is not None:
        drained.append(transmit)
    return drained


def sent(agent: Agent) -> list[Message]:
    return [decode(transmit.run.data) for transmit in transmits(agent)]


def state(agent: Agent) -> AgentState:
    """The state now: a call, because a type checker believes that attributes stay as they were compared."""
    return agent.state


def events(agent: Agent) -> list[Event]:
    drained: list[Event] = []
    while (event := agent.poll_event()) is not None:
        drained.append(event)
    return drained


def check(
    *extra: Attribute,
    to_controlling: bool = False,
    username: str | None = None,
    password: str | None = None,
    message_class: MessageClass = MessageClass.REQUEST,
    priority: int | None = 1862270719,
) -> Message:
    """A check of the peer, right in all that is not changed."""
    ours, theirs = (CLIENT, GATEWAY) if to_controlling else (GATEWAY, CLIENT)
    name = Username(f"{ours.username}:{theirs.username}" if username is None else username)
    attributes: list[Attribute] = [name, IceControlled(1) if to_controlling else IceControlling(1)]
    attributes += [Priority(priority)] if priority is not None else []
    key = (ours.password if password is None else password).encode()
    data = encode(Method.BINDING, message_class, b"t" * 12, [*attributes, *extra], integrity_key=key, fingerprint=True)
    return decode(data)


def answer(request: Message, mapped: Endpoint = OURS, password: str = GATEWAY.password) -> Message:
    """The peer's answer to a check of ours."""
    attributes = [XorMappedAddress(mapped)]
    key = password.encode()
    return decode(encode(Method.BINDING, MessageClass.SUCCESS, request.transaction_id, attributes, integrity_key=key))
