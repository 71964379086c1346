"""Real name servers for tests: dnsmasq and unbound with one zone, in a namespace of the caller's choice.

unbound is no package that ``make setup`` installs: Debian's starts a resolver for the whole host.
"""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.children import ending

ADDRESSES: Final = ("192.0.2.1", "2001:db8:1::1")
SRV: Final = "10 20 5060 app.internal."
TEXT: Final = "served by the site"
MANY: Final = tuple(f"192.0.2.{number}" for number in range(1, 121))  # far more than 512 bytes
LONG_TEXTS: Final = tuple(f"{number:03d}" + "x" * 200 for number in range(20))  # far more than 1200 bytes
_READY_SECONDS: Final = 60


@contextmanager
def dnsmasq(namespace: str, address: str) -> Iterator[None]:
    """dnsmasq at an address, until the end."""
    records = [f"--host-record=app.internal,{','.join(ADDRESSES)}", "--host-record=four.internal,192.0.2.4"]
    records += ["--host-record=six.internal,2001:db8:1::6", f"--txt-record=app.internal,{TEXT}"]
    records += ["--cname=alias.internal,app.internal", "--srv-host=_sip._tcp.app.internal,app.internal,5060,10,20"]
    records += [f"--host-record=many.internal,{one}" for one in MANY]
    records += [f"--txt-record=long.internal,{text}" for text in LONG_TEXTS]
    command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file", "--no-hosts"]
    command += ["--no-resolv", "--bind-interfaces", "--except-interface=lo", f"--listen-address={address}"]
    command += ["--local=/internal/", "--local-ttl=60", *records]
    with _serving(namespace, address, command):
        yield


@contextmanager
def unbound(namespace: str, address: str, directory: Path) -> Iterator[None]:
    """unbound at an address, until the end."""
    data = [f"app.internal. 60 IN A {ADDRESSES[0]}", f"app.internal. 60 IN AAAA {ADDRESSES[1]}"]
    data += ["four.internal. 60 IN A 192.0.2.4", "six.internal. 60 IN AAAA 2001:db8:1::6"]
    data += [f"_sip._tcp.app.internal. 60 IN SRV {SRV}", f'app.internal. 60 IN TXT "{TEXT}"']
    data += [f"many.internal. 60 IN A {one}" for one in MANY]
    data += [f'long.internal. 60 IN TXT "{text}"' for text in LONG_TEXTS]
    settings = [f"interface: {address}", "access-control: 0.0.0.0/0 allow", "access-control: ::/0 allow"]
    settings += [
        'username: ""',
        'chroot: ""',
        'pidfile: ""',
        "use-syslog: no",
        "do-daemonize: no",
        f'directory: "{directory}"',
    ]
    settings += ['local-zone: "internal." static', 'module-config: "iterator"']
    settings += [f"local-data: '{line}'" for line in data]
    configuration = directory / "unbound.conf"
    text = "server:\n" + "".join(f"  {line}\n" for line in settings) + "remote-control:\n  control-enable: no\n"
    configuration.write_text(text, encoding="ascii")
    with _serving(namespace, address, ["unbound", "-d", "-p", "-c", str(configuration)]):
        yield


@contextmanager
def _serving(namespace: str, address: str, command: Sequence[str]) -> Iterator[None]:
    with ExitStack() as stack:
        process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        stack.enter_context(ending(process))
        deadline = time.monotonic() + _READY_SECONDS
        while not _answers(namespace, address):
            if process.poll() is not None:
                assert process.stdout is not None
                raise AssertionError(f"{command[0]} ended: {process.stdout.read()}")
            assert time.monotonic() < deadline, f"{command[0]} does not answer"
        yield


def _answers(namespace: str, address: str) -> bool:
    query = ["dig", "+short", "+tries=1", "+time=1", "+tcp", f"@{address}", "TXT", "app.internal"]
    done = subprocess.run(["ip", "netns", "exec", namespace, *query], capture_output=True, text=True, check=False)
    return TEXT in done.stdout
