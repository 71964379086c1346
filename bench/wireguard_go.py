"""Two wireguard-go's in place of our client and gateway: same network, same forwarding, no portal and no relay.

Each listens for its configuration below ``/var/run/wireguard`` by its interface's name. The interfaces of both ends
are called alike, and other labs may stand meanwhile: so each has that directory to itself, in the mount namespace that
``ip netns exec`` has made for it.
"""

import os
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from connectivity.tunnel import PEERS_IPV4
from connectivity.wireguard import KeyPair
from lab import measure, network
from lab.errors import LabError
from lab.plan import CLIENT, GATEWAY, RESOURCE, TUN_MTU, TUN_NAME, LabSettings, masquerading_rules
from lab.processes import Process, wait_until
from lab.stack import Stack
from lab.topology import Lab

_PORT: Final = 51820
_ADDRESSES: Final = {"client": str(PEERS_IPV4[1]), "gateway": str(PEERS_IPV4[2])}
_ENDPOINTS: Final = {"client": CLIENT, "gateway": GATEWAY}
_BEHIND: Final = {"client": f"{PEERS_IPV4[1]}/32", "gateway": RESOURCE.network}
_SCRIPT: Final = 'mkdir -p /var/run/wireguard && mount -t tmpfs none /var/run/wireguard && exec "$0" --foreground "$1"'


@contextmanager
def wireguard_go(program: str) -> Iterator[Lab]:
    """A fresh network with a tunnel of theirs between the places of client and gateway, and a page through it."""
    with Lab(LabSettings()) as lab:
        Stack(lab).start_resource()
        keys = {role: KeyPair.generate(os.urandom) for role in _ADDRESSES}
        for role in _ADDRESSES:
            _start(lab, role, program)
        for role, other in (("client", "gateway"), ("gateway", "client")):
            _configure(lab, role, keys[role], other, keys[other])
        network.load_rules(lab.gateway, masquerading_rules())
        measure.first_answer_ms(lab)
        yield lab


def _start(lab: Lab, role: str, program: str) -> None:
    command = ["sh", "-ec", _SCRIPT, program, TUN_NAME]
    process = lab.spawn(role, lab.namespace(role), command, {"LOG_LEVEL": "error"})
    wait_until(lambda: _listens(process), f"{role}'s wireguard-go listens", [process])


def _listens(process: Process) -> bool:
    try:
        _inside(process, ["wg", "show", TUN_NAME])
    except LabError:
        return False
    return True


def _configure(lab: Lab, role: str, keys: KeyPair, peer: str, peer_keys: KeyPair) -> None:
    secret = lab.logs / f"{role}.key"
    secret.touch(mode=0o600)
    secret.write_bytes(b64encode(keys.private))
    words = ["wg", "set", TUN_NAME, "listen-port", str(_PORT), "private-key", str(secret)]
    words += ["peer", b64encode(peer_keys.public).decode(), "allowed-ips", _BEHIND[peer]]
    words += ["endpoint", f"{_ENDPOINTS[peer].address}:{_PORT}"]
    _inside(next(process for process in lab.processes if process.name == role), words)
    for line in (
        f"address add {_ADDRESSES[role]}/32 dev {TUN_NAME}",
        f"link set {TUN_NAME} mtu {TUN_MTU} up",
        f"route add {_BEHIND[peer]} dev {TUN_NAME}",
    ):
        network.execute(lab.namespace(role), ["ip", *line.split()])


def _inside(process: Process, command: list[str]) -> str:
    """Where this process looks for its control socket."""
    return network.run_command(["nsenter", "--target", str(process.pid), "--mount", "--net", *command])
