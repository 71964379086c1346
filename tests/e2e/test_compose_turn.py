"""``compose/turn``: a TURN server from an image and a file, used from another machine, read again, drained.

::

    engine's host  198.51.100.1  ──veth──  198.51.100.2  somebody with coturn's client, and with ours
"""

import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from connectivity.endpoint import Endpoint
from connectivity.stun import Lifetime, Method, RequestedTransport, XorRelayedAddress
from lab.processes import wait_until
from tests.documented import ROOT, claimed
from tests.e2e.engine import Engine, Workshop, install, run
from tests.netns.relay_stage import FAR, RELAY
from tests.netns.turn_wire import TurnWire
from tests.unit.relay.playbook import attribute_of, error_code

# Building the image, where no other test has, takes minutes.
pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.timeout(1500)]

BEGIN: Final = ["docker", "compose", "--file", "compose/turn/docker-compose.yml"]
DOCUMENTED: Final = "203.0.113.5"
UDP: Final = RequestedTransport(17)
CHANNEL: Final = 0x4000
LISTEN: Final = 'listen: ["0.0.0.0:3478", "0.0.0.0:79"]\n'
READER: Final = 10001  # who the relay in the container is


@dataclass(frozen=True)
class Server:
    """The engine's host, and the namespace of everybody else."""

    engine: Engine
    folder: Path
    there: str
    env: dict[str, str]

    @property
    def file(self) -> Path:
        return self.folder / "compose/turn/relay.yaml"

    def write_file(self, user: str) -> None:
        """The file of the README, as somebody on the host would write it: with one more user, and a privileged port."""
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        text = text.partition("```yaml\n# relay.yaml\n")[2].partition("```")[0].replace(DOCUMENTED, str(RELAY[4]))
        self.file.unlink(missing_ok=True)  # a new file under the same name, as editors make it
        self.file.write_text(text.replace("users: {", "users: {" + user) + LISTEN)
        self.file.chmod(0o600)
        shutil.chown(self.file, READER)

    def command(self, text: str) -> list[str]:
        """A documented command as it is here: built before, no terminal, another address, run where it belongs."""
        words = text.split()
        if words[: len(BEGIN)] != BEGIN:
            return ["ip", "netns", "exec", self.there, *[str(RELAY[4]) if w == DOCUMENTED else w for w in words]]
        rest = [word for word in words[len(BEGIN) :] if word != "--build"]
        rest[1:1] = ["-T"] if rest[0] == "exec" else []
        return [*self.engine.compose, "--file", str(self.folder / "compose/turn/docker-compose.yml"), *rest]

    def say(self, command: str) -> str:
        return run(self.command(command), self.env)

    def readiness(self) -> Any:
        return json.loads(run([*self.engine.where(), "curl", "-s", "http://127.0.0.1:8080/readyz"]))

    def containers(self) -> list[str]:
        label = f"label=com.docker.compose.project={self.engine.env['COMPOSE_PROJECT_NAME']}"
        return self.engine.docker("ps", "--all", "--quiet", "--filter", label).split()

    def inspect(self) -> Any:
        (found,) = json.loads(self.engine.docker("inspect", *self.containers()))
        return found


@pytest.fixture(scope="module")
def server(workshop: Workshop) -> Iterator[Server]:
    engine = workshop.engine
    install(("turnutils_uclient",), ("coturn",))
    engine.start(can_build=True)
    image, _ = workshop.build("relay")
    engine.start(can_build=False)
    env = {**engine.env, "RELAY_IMAGE": image}
    with wire(engine) as there:
        made = Server(engine, workshop.folder, there, env)
        try:
            yield made
        finally:
            made.say(" ".join([*BEGIN, "down", "--timeout", "0"]))
            made.file.unlink(missing_ok=True)
    assert made.containers() == []


@contextmanager
def wire(engine: Engine) -> Iterator[str]:
    """From the engine's host to a namespace; both ends go with that."""
    there, where = f"turn-{uuid.uuid4().hex[:6]}", engine.where()
    run(["ip", "netns", "add", there])
    try:
        run([*where, "ip", "link", "add", there, "type", "veth", "peer", "name", "veth0", "netns", there])
        for prefix, device, address in ((where, there, RELAY[4]), (["ip", "netns", "exec", there], "veth0", FAR[4])):
            run([*prefix, "ip", "address", "add", f"{address}/24", "dev", device])
            run([*prefix, "ip", "link", "set", device, "up"])
        yield there
    finally:
        run(["ip", "netns", "delete", there])


def test_the_documented_commands(server: Server) -> None:
    """And between them what they promise: data, a user who is new, calls that outlive the order to stop."""
    up, ask, listing, reload, stop = claimed("test_compose_turn::test_the_documented_commands")
    server.write_file("")
    server.say(up)
    wait_until(lambda: server.inspect()["State"]["Health"]["Status"] == "healthy", "it is healthy", seconds=60)
    host = server.inspect()["HostConfig"]
    assert (host["NetworkMode"], host["Privileged"], host["ReadonlyRootfs"]) == ("host", False, True)
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges:true"])
    assert "Total lost packets 0 (0.000000%)" in server.say(ask)
    (left,) = re.findall(r"^(\d+) ", server.say(listing), re.MULTILINE)  # uclient does not give back its first
    server.say(listing.replace("list", f"end {left}"))

    with ExitStack() as stack:
        alice, bob, late = (TurnWire(stack, server.there, username=name) for name in ("alice", "bob", "alice"))
        assert error_code(bob.call(Method.ALLOCATE, UDP)) == 401
        server.write_file("bob: secret, ")
        server.say(reload)
        wait_until(lambda: error_code(bob.call(Method.REFRESH)) == 437, "the relay knows bob")  # who has no allocation
        relayed = [allocate(client) for client in (alice, bob)]
        assert [error_code(alice.bind(CHANNEL, relayed[1])), error_code(bob.bind(CHANNEL, relayed[0]))] == [0, 0]
        converse(alice, bob)

        with subprocess.Popen(server.command(stop), env={**os.environ, **server.env}) as stopping:
            wait_until(lambda: server.readiness()["draining"], "it drains")
            assert error_code(late.call(Method.ALLOCATE, UDP)) == 508
            converse(alice, bob)
            assert [error_code(client.call(Method.REFRESH, Lifetime(0))) for client in (alice, bob)] == [0, 0]
            assert stopping.wait(30) == 0
    state = server.inspect()["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 0)


def allocate(client: TurnWire) -> Endpoint:
    return attribute_of(client.call(Method.ALLOCATE, UDP), XorRelayedAddress).endpoint


def converse(first: TurnWire, second: TurnWire) -> None:
    """Each through the relayed address of the other, as browsers do that may not meet directly."""
    for sender, receiver in ((first, second), (second, first)):
        for index in range(50):
            payload = bytes([index]) * (10 + 20 * index)
            sender.send_data(CHANNEL, payload)
            assert receiver.read_data() == (CHANNEL, payload)
