"""A stand-alone ``postern relay`` for other programs that speak TURN, and tshark to read what they say, within TLS too.

relay (plain_pair's a)  198.51.100.1, 2001:db8::1  ──veth──  198.51.100.2, 2001:db8::2  everybody else (b)
"""

import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from lab.processes import wait_until
from tests.e2e.engine import install
from tests.interop.tcp_capture import write_capture
from tests.netns.plain_pair import entered, ip, namespaces
from tests.netns.relay_stage import RELAY, fetch, running
from tests.unit.relay.test_relay_config_file import make_certificate

USER: Final = "alice"
PASSWORD: Final = "the password of alice"
SECRET: Final = "a secret for names with a time"
TLS_PORT: Final = 5349
_FILE: Final = f"""
realm: example.org
listen: ["198.51.100.1:3478", "[2001:db8::1]:3478"]
public: {{ipv4: 198.51.100.1, ipv6: "2001:db8::1"}}
tls: {{certificate: cert.pem, key: key.pem, listen: ["198.51.100.1:{TLS_PORT}", "[2001:db8::1]:{TLS_PORT}"]}}
users: {{{USER}: {PASSWORD}}}
rest_secrets: [{SECRET}]
peers: {{allow: [198.51.100.0/24, "2001:db8::/64"]}}
quotas: {{requests_per_second_per_source: 1000}}  # all of them live at one address
ebpf: {{interfaces: [veth0], mode: MODE}}
"""
# What tshark must not find on the relay's ports: what it cannot read to its end, or reads and finds wrong, or takes for
# something else. On other ports are the peers' payloads.
_FAULTS: Final = f"""
    (udp.port == 3478 || tcp.port in {{3478, {TLS_PORT}}}) && !icmp && !icmpv6 && (
        _ws.malformed || _ws.short || stun.short_packet || stun.wrong_msglen || stun.long_attribute
        || stun.unknown_attribute || stun.att.crc32.status == 0 || udp && !stun
    )
"""


# Run by Python before the relay: it writes down the keys of its TLS connections.
_KEY_LOGGER: Final = """
import os, ssl
load = ssl.SSLContext.load_cert_chain
def load_and_log(context, *arguments, **named):
    context.keylog_filename = os.environ["KEYS"]
    load(context, *arguments, **named)
ssl.SSLContext.load_cert_chain = load_and_log
"""


class TurnStage:
    """Both namespaces, and the relay in one of them."""

    def __init__(self, stack: ExitStack, mode: str) -> None:
        self.mode = mode
        install(("turnutils_uclient", "turnutils_peer", "tshark"), ("coturn", "tshark"))
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postern-interop-")))
        self.certificate = self.folder / "cert.pem"
        make_certificate(self.folder, "relay.example.org", RELAY.values())
        (self.folder / "relay.yaml").write_text(_FILE.replace("MODE", mode))
        (self.folder / "relay.yaml").chmod(0o600)
        self.here, self.there = stack.enter_context(namespaces())
        for version, gateway in RELAY.items():  # Chromium asks its host for the way to the Internet
            ip("-n", self.there, f"-{version}", "route", "add", "default", "via", str(gateway))
        for namespace in (self.here, self.there):
            # As on a wire: what XDP sends is taken, and a run of datagrams comes as single ones.
            features = ["gro", "on", "tx-udp-segmentation", "off"]
            subprocess.run(["ip", "netns", "exec", namespace, "ethtool", "-K", "veth0", *features], check=True)
        self._capture = self.folder / "capture.pcap"
        self._decrypted = self.folder / "decrypted.pcap"
        self._tcpdump = stack.enter_context(self._captured())
        errors = stack.enter_context((self.folder / "log").open("w"))
        environment = {"HEALTH_CHECK_ADDR": "127.0.0.1:8080", "POSTERN_ADMIN_SOCKET": "off", "RUST_LOG": "info"}
        self._keys = self.folder / "keys"
        self._keys.touch()
        environment |= {"KEYS": str(self._keys), "PYTHONPATH": str(self.folder)}
        (self.folder / "sitecustomize.py").write_text(_KEY_LOGGER)
        arguments = ("--config", str(self.folder / "relay.yaml"))
        stack.enter_context(running(self.here, environment, *arguments, errors=errors))
        wait_until(lambda: fetch(self.here, "readyz")[0] == 200, "the relay is ready")

    def command(self, *words: str) -> list[str]:
        """A command at the far end."""
        return ["ip", "netns", "exec", self.there, *words]

    def packets(self, path: str) -> int:
        """Relayed by ``xdp`` or ``python`` so far, both directions."""
        found = re.findall(rf'relay_packets_total{{path="{path}",.*}} (\d+)', fetch(self.here, "metrics")[1])
        return sum(map(int, found))

    def complaints(self) -> list[str]:
        """Lines of the relay's log above INFO."""
        log = (self.folder / "log").read_text()
        return [line for line in log.splitlines() if not re.search(r" (INFO|DEBUG) ", line)]

    def end_capture(self) -> None:
        """What was said until now is in the file."""
        last = b"the last datagram"
        with entered(self.there), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as marker:
            marker.sendto(last, ("198.51.100.1", 9))
        wait_until(lambda: last in self._capture.read_bytes(), "tcpdump has written all")
        self._tcpdump.terminate()
        said = self._tcpdump.communicate(timeout=20)[1]
        assert "\n0 packets dropped by kernel" in said, said
        self._decrypt()

    def messages(self, kind: str, *, within_tls: bool = False) -> int:
        """How many captured frames have such messages."""
        return len(self._tshark(self._decrypted if within_tls else self._capture, kind))

    def faults(self) -> list[str]:
        """What tshark does not take for what it should be."""
        found: list[str] = []
        for capture in (self._capture, self._decrypted):
            # The length of an attribute that is longer than its message is called bogus, without any mark.
            texts = self._tshark(capture, "stun && !stun.channel", "-O", "stun")
            found += self._tshark(capture, _FAULTS) + [line for line in texts if "bogus" in line]
        return found

    def _decrypt(self) -> None:
        """Write a capture of what was said within TLS."""
        fields = [word for name in ("tcp.stream", "tcp.srcport", "data.data") for word in ("-e", name)]
        rows = [line.split("\t") for line in self._tshark(self._capture, "tls.app_data", "-T", "fields", *fields)]
        records = (
            (int(stream), port == str(TLS_PORT), bytes.fromhex(record))
            for stream, port, data in rows
            for record in data.split(",")  # one TCP segment may hold several
        )
        write_capture(self._decrypted, records)

    def _tshark(self, capture: Path, display_filter: str, *options: str) -> list[str]:
        keys = f"tls.keylog_file:{self._keys}"
        command = ["tshark", "-n", "-r", str(capture), "-o", keys, "-Y", display_filter, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    @contextmanager
    def _captured(self) -> Iterator[subprocess.Popen[str]]:
        # At the far end, because what XDP does on its own end of the wire shows up in no capture there. In immediate
        # mode the buffer would keep as much room for each packet as the longest may need, and soon be full.
        command = self.command("tcpdump", "-i", "veth0", "-U", "-B", "65536", "-Z", "root", "-w", str(self._capture))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            assert "listening on" in process.stderr.readline()
            yield process
        finally:
            process.kill()
            process.communicate()
