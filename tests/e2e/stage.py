"""The whole stack for tests of its life: what a part leaves behind, how it ends, what it logged meanwhile."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway import firewall
from lab import network
from lab.errors import LabError
from lab.measure import PAGE_URL, first_answer_ms
from lab.processes import Process, wait_until
from lab.stack import Stack
from lab.topology import Lab

PARTS: Final = ("portal", "relay", "gateway", "client")
# A service that was told to stop waits a second at most; the rest is for a machine on which ten others run. Whoever
# waited for what hangs (a portal's farewell, a name server, a collector) would take ten.
END_SECONDS: Final = 9.0
# Who is not told so takes fifteen to believe that the other end is gone (``connectivity.ice.timing``).
GOODBYE_SECONDS: Final = 6.0
_PATIENCE_SECONDS: Final = 60.0  # until what should end is killed, and the test fails for it
POSTERN: Final = (str(Path(sys.executable).with_name("postern")),)
# What the others rightly warn of where a test has ended a portal or a relay, or cut or moved a network.
PORTAL_AWAY: Final = r" WARN connectivity::phoenix: Portal is away "
RELAY_SILENT: Final = r" WARN connectivity::turn::allocation: Relay does not answer "
_MISSED: Final = {"portal": PORTAL_AWAY, "relay": RELAY_SILENT}
WRONG_TOKENS: Final = r" WARN portal: Wrong tokens address=\S+ count=\d+ "
_INFORMATION: Final = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z +(INFO|DEBUG|TRACE) ")
_FORWARDING: Final = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
_VOLATILE: Final = frozenset({"flags", "expires", "pref", "metric", "cache"})


def traces(namespace: str) -> dict[str, Any]:
    """All that a service could leave behind in a namespace."""
    found: dict[str, Any] = {
        "links": sorted((link["ifname"], "xdp" in link) for link in _json(namespace, "link")),
        "addresses": sorted(
            (link["ifname"], address["local"])
            for link in _json(namespace, "address")
            for address in link.get("addr_info", ())
        ),
        "rules": [_json(namespace, family, "rule") for family in ("-4", "-6")],
        "routes": [_routes(namespace, family) for family in ("-4", "-6")],
        "tables": network.execute(namespace, ["nft", "list", "ruleset"]),
        "processes": network.execute(namespace, ["ip", "netns", "pids", namespace]).split(),
        "forwarding": network.execute(namespace, ["sysctl", *_FORWARDING]),
    }
    # The one that asks is in there, too.
    found["processes"] = [pid for pid in found["processes"] if _command(pid) not in ("ip", "")]
    return found


@dataclass(slots=True)
class Stage:
    """A running stack; ``pristine`` is what each namespace looked like before any part was started."""

    stack: Stack
    pristine: dict[str, dict[str, Any]]
    allowed: list[str] = field(default_factory=list)  # in the log during this test
    lasting: list[str] = field(default_factory=list)  # from this test on: what is told later than it happens

    def process(self, name: str) -> Process:
        """The latest process of a part."""
        return next(process for process in reversed(self.stack.lab.processes) if process.name == name)

    def ensure_running(self) -> None:
        """Start what a failed test left ended."""
        starts: dict[str, Callable[[], object]] = {
            "portal": self.stack.start_portal,
            "relay": self.stack.start_relay,
            "gateway": self.stack.start_gateway,
            "client": self.stack.start_client,
        }
        for name, start in starts.items():
            if not self.process(name).running():
                start()

    def connect(self, url: str = PAGE_URL) -> float:
        """Fetch the page through the tunnel; the milliseconds until the first byte.

        Its connection has ended for the gateway's kernel, too: a gateway leaves its masquerade to those that have not.
        """
        before = self._established()
        milliseconds = first_answer_ms(self.stack.lab, url)
        wait_until(lambda: self._established() <= before, "the gateway's kernel has seen the connection end")
        return milliseconds

    def _established(self) -> int:
        known = network.execute(self.stack.lab.gateway, ["cat", "/proc/net/nf_conntrack"])
        return sum(" ESTABLISHED " in line and firewall.is_of_a_client(line) for line in known.splitlines())

    def peers(self, role: str) -> list[dict[str, Any]]:
        """The connections that client or gateway has."""
        found: list[dict[str, Any]] = self.stack.status(role)["connections"]
        return found

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask a part to stop, and hold it to a prompt end with exit code 0 that leaves nothing behind."""
        self._will_be_missed(name)
        self.process(name).popen.send_signal(number)
        self.expect_end(name)

    def expect_end(self, name: str) -> None:
        """A part was asked to stop a moment ago."""
        process = self.process(name)
        asked = time.monotonic()
        assert process.popen.wait(_PATIENCE_SECONDS) == 0, process.log_text()[-500:]
        assert time.monotonic() - asked < END_SECONDS
        assert traces(self.stack.lab.namespace(name)) == self.pristine[name]

    def expect_failure(self, name: str) -> str:
        """A part ends by itself, with exit code 1, without traces; its last line."""
        process = self.process(name)
        assert process.popen.wait(_PATIENCE_SECONDS) == 1, process.log_text()[-500:]
        assert traces(self.stack.lab.namespace(name)) == self.pristine[name]
        return process.log_text().splitlines()[-1]

    def kill(self, name: str) -> None:
        """A part dies without a word."""
        self._will_be_missed(name)
        process = self.process(name)
        process.popen.kill()
        process.popen.wait()

    def _will_be_missed(self, name: str) -> None:
        """The others may say so, and for some seconds after the test that ended it."""
        if name in _MISSED:
            self.lasting.append(_MISSED[name])

    def secrets(self) -> list[str]:
        return secrets(self.stack)


@dataclass(frozen=True, slots=True)
class Ended:
    """A program that has ended by itself."""

    code: int
    output: str
    errors: str

    def complaint(self, code: int) -> str:
        """The one line on stderr that says what is wrong; before it there are lines of the log below WARN at most."""
        assert self.code == code, self.errors
        assert self.output == ""
        lines = self.errors.splitlines()
        assert lines, "it said nothing"
        assert all(_INFORMATION.match(line) or PORTAL_AWAY in line for line in lines[:-1]), self.errors
        return lines[-1]


def run_to_end(namespace: str, arguments: Sequence[str], env: Mapping[str, str], launcher: Sequence[str] = ()) -> Ended:
    """Run ``postern`` in a namespace with nothing but these variables; ``launcher`` is what starts it."""
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, *launcher, *POSTERN, *arguments],
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def is_within(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether something comes true in time; it has not yet while who is asked does not answer, or has no path."""

    def holds() -> bool:
        try:
            return condition()
        except LabError:
            return False

    try:
        wait_until(holds, "it", seconds=seconds)
    except LabError:
        return False
    return True


def reaches(lab: Lab) -> bool:
    """Whether the page comes through the tunnel within a second."""
    command = ["curl", "-sf", "--max-time", "1", "-o", os.devnull, PAGE_URL]
    return subprocess.run(["ip", "netns", "exec", lab.user, *command], check=False).returncode == 0


class LogReader:
    """What the parts log from now on."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._read = {name: len(self._text(name)) for name in PARTS}

    def new_text(self, name: str) -> str:
        return self._text(name)[self._read[name] :]

    def complaints(self, allowed: Sequence[str] = ()) -> list[str]:
        """What a healthy run has none of, in the new lines."""
        return complaints(self._stage.stack, {name: self.new_text(name) for name in PARTS}, allowed)

    def _text(self, name: str) -> str:
        path = self._stage.stack.lab.logs / f"{name}.log"
        text = path.read_text(errors="replace") if path.exists() else ""
        return text[: text.rfind("\n") + 1]  # the last line may be written in this moment


def complaints(stack: Stack, logs: Mapping[str, str], allowed: Sequence[str] = ()) -> list[str]:
    """What a healthy run has none of: warnings, errors, tracebacks, secrets, lines that are not of the log."""
    hidden = secrets(stack)
    return [
        f"{name}: {line}"
        for name, text in logs.items()
        for line in text.splitlines()
        if _INFORMATION.match(line) is None or any(secret in line for secret in hidden)
        if not any(re.search(words, line) for words in allowed)
    ]


def secrets(stack: Stack) -> list[str]:
    """What no log may hold."""
    return [stack.tokens.relay, stack.tokens.gateway, stack.tokens.client]


def _routes(namespace: str, family: str) -> list[str]:
    routes = _json(namespace, family, "route", "show", "table", "all")
    kept = [{key: value for key, value in route.items() if key not in _VOLATILE} for route in routes]
    return sorted(json.dumps(route, sort_keys=True) for route in kept)


def _json(namespace: str, *arguments: str) -> list[dict[str, Any]]:
    text = network.execute(namespace, ["ip", "-j", *arguments])
    found: list[dict[str, Any]] = [entry for entry in json.loads(text or "[]") if entry]
    return found


def _command(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""  # ended meanwhile
