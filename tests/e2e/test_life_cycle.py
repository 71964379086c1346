"""Parts of the running stack end, die, come back: goodbyes, nothing left behind, the tunnel recovers, logs stay clean.

Client and gateway sit behind symmetric NATs, so that all traffic goes through the relay, which offloads. Each test
finds the whole stack running and leaves it so, whatever the order.
"""

import json
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from lab import network
from lab.errors import LabError
from lab.measure import PAGE_URL6
from lab.plan import LabSettings, Nat, Underlay
from lab.processes import wait_until
from lab.stack import API_URL, Stack
from lab.topology import Lab
from lab.transfer import download, upload
from tests.e2e.stage import (
    GOODBYE_SECONDS,
    PARTS,
    PORTAL_AWAY,
    POSTERN,
    WRONG_TOKENS,
    LogReader,
    Stage,
    is_within,
    reaches,
    run_to_end,
    traces,
)

pytestmark = pytest.mark.root

ASKED_AGAIN_MS = 10_000  # at once; who has had no goodbye believes for fifteen seconds that the old path works
RECOVERY_SECONDS = 30.0
IDLE_SECONDS = 25.0  # 20 s of silence, and some to notice
OTHER = {"gateway": "client", "client": "gateway"}


@pytest.fixture(scope="module")
def built() -> Iterator[Stage]:
    with Lab(LabSettings(Nat.SYMMETRIC, Nat.SYMMETRIC, Underlay.IPV4)) as lab:
        pristine = {name: traces(lab.namespace(name)) for name in PARTS}
        stack = Stack(lab)
        stack.start()
        yield Stage(stack, pristine)


@pytest.fixture
def stage(built: Stage) -> Iterator[Stage]:
    built.ensure_running()
    built.allowed.clear()
    logs = LogReader(built)
    yield built
    assert logs.complaints([*built.allowed, *built.lasting]) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("role", ["gateway", "client"])
def test_who_is_told_to_stop_says_goodbye_and_leaves_nothing_behind(
    stage: Stage, role: str, number: signal.Signals
) -> None:
    stage.connect()
    assert len(stage.peers(OTHER[role])) == 1
    logs = LogReader(stage)
    stage.process(role).popen.send_signal(number)
    assert is_within(lambda: stage.peers(OTHER[role]) == [], GOODBYE_SECONDS)
    stage.expect_end(role)
    assert logs.new_text(role).rstrip().endswith("Goodbye!")
    assert "left: goodbye" in logs.new_text(OTHER[role])

    start = stage.stack.start_gateway if role == "gateway" else stage.stack.start_client
    start()
    assert stage.connect() < ASKED_AGAIN_MS


def test_a_second_signal_while_stopping_changes_nothing(stage: Stage) -> None:
    stage.connect()
    process = stage.process("gateway")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        process.popen.send_signal(number)
    stage.expect_end("gateway")
    stage.stack.start_gateway()


def test_a_gateway_takes_over_what_a_dead_one_left_behind(stage: Stage) -> None:
    stage.connect()
    stage.kill("gateway")  # its rules and its table stay
    assert traces(stage.stack.lab.gateway) != stage.pristine["gateway"]
    stage.stack.start_gateway()
    stage.end("client")  # which knows only the dead one, until ICE gives up
    stage.stack.start_client()
    stage.connect()
    stage.end("gateway")
    stage.stack.start_gateway()


def test_a_gateway_is_ready_once_the_portal_has_let_it_in(stage: Stage) -> None:
    lab = stage.stack.lab

    def status(page: str) -> str:
        asked = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:8080/{page}"]
        try:
            return network.execute(lab.gateway, asked)
        except LabError:
            return ""  # not there yet

    assert (status("healthz"), status("readyz")) == ("200", "200")
    stage.end("gateway")
    env = {"FIREZONE_API_URL": "ws://127.0.0.1:9", "FIREZONE_TOKEN": stage.stack.tokens.gateway, "FIREZONE_ID": "alone"}
    stage.allowed.append(PORTAL_AWAY)
    alone = lab.spawn("gateway", lab.gateway, [*POSTERN, "gateway"], env)
    wait_until(lambda: status("healthz") == "200", "the gateway answers", [alone])
    assert status("readyz") == "503"
    stage.end("gateway")
    stage.stack.start_gateway()


def test_a_second_client_on_one_host_is_refused_and_the_first_goes_on(stage: Stage) -> None:
    stage.connect()
    before = traces(stage.stack.lab.client)
    env = {"FIREZONE_API_URL": API_URL, "FIREZONE_TOKEN": stage.stack.tokens.client, "FIREZONE_ID": "another"}
    ended = run_to_end(stage.stack.lab.client, ["client"], env)
    assert ended.complaint(1) == "postern client: cannot create TUN device tun-firezone: Device or resource busy"
    assert traces(stage.stack.lab.client) == before
    stage.connect()


def test_the_end_does_not_wait_for_a_portal_that_hangs(stage: Stage) -> None:
    stage.connect()
    portal = stage.process("portal")
    portal.popen.send_signal(signal.SIGSTOP)
    try:
        for name in ("client", "gateway", "relay"):
            stage.end(name)
    finally:
        portal.popen.send_signal(signal.SIGCONT)
    stage.ensure_running()


def test_the_end_does_not_wait_for_a_name_server_that_is_silent(stage: Stage) -> None:
    stage.end("client")
    nameserver = stage.process("nameserver")
    nameserver.popen.send_signal(signal.SIGSTOP)
    try:
        url = "ws://portal.lab:8081"
        env = {"FIREZONE_API_URL": url, "FIREZONE_TOKEN": stage.stack.tokens.client, "FIREZONE_DNS_CONTROL": "disabled"}
        client = stage.stack.lab.spawn("client", stage.stack.lab.client, [*POSTERN, "client"], env)
        wait_until(
            lambda: "TUN device created" in client.log_text().splitlines()[-1], "it asks for the portal", [client]
        )
        stage.end("client")
        assert client.log_text().rstrip().endswith("Goodbye!")
    finally:
        nameserver.popen.send_signal(signal.SIGCONT)
    stage.stack.start_client()


def test_a_relay_that_dies_under_traffic_is_replaced(stage: Stage) -> None:
    stage.connect()
    pids = {role: stage.process(role).pid for role in OTHER}
    with _pings(stage) as answered:
        assert is_within(lambda: answered() > 0, RECOVERY_SECONDS)
        stage.kill("relay")
        assert _xdp(stage) is None  # the program goes with its process
        stage.stack.start_relay()
        before = answered()
        assert is_within(lambda: answered() > before, RECOVERY_SECONDS)
    stage.connect()
    assert {role: stage.process(role).pid for role in OTHER} == pids
    assert all(stage.process(role).running() for role in OTHER)


def test_a_relay_is_replaced_while_the_connection_is_idle(stage: Stage) -> None:
    stage.connect()
    # A server repeats its answers to who was cut off by an earlier test, for a minute: traffic, although nobody asked.
    packets = _tunnelled_packets(stage)
    while not is_within(lambda: [peer["state"] for peer in stage.peers("client")] == ["idle"], IDLE_SECONDS):
        before, packets = packets, _tunnelled_packets(stage)
        assert packets > before, stage.peers("client")
    stage.kill("relay")
    stage.stack.start_relay()
    assert is_within(lambda: reaches(stage.stack.lab), RECOVERY_SECONDS)


def test_a_relay_that_stops_takes_its_program_along_and_the_next_one_offloads(stage: Stage) -> None:
    stage.connect()
    assert _xdp(stage) is not None
    stage.end("relay")
    assert _xdp(stage) is None
    stage.stack.start_relay()
    assert _xdp(stage) is not None
    assert stage.stack.xdp_mode() == "native"
    assert is_within(lambda: reaches(stage.stack.lab), RECOVERY_SECONDS)
    before = stage.stack.relay_counts()
    download(stage.stack.lab, 1_000_000)
    after = stage.stack.relay_counts()
    assert after.xdp - before.xdp > 800
    assert after.python - before.python < 200


def test_data_flows_while_the_portal_is_away_and_new_flows_when_it_is_back(stage: Stage) -> None:
    stage.connect()
    stage.kill("portal")
    assert is_within(lambda: not any(stage.stack.status(role)["portal"] for role in OTHER), RECOVERY_SECONDS)
    with _pings(stage) as answered:
        download(stage.stack.lab, 2_000_000)
        upload(stage.stack.lab, 2_000_000)
        stage.stack.start_portal()
        assert is_within(lambda: all(stage.stack.status(role)["portal"] for role in OTHER), RECOVERY_SECONDS)
        # The new portal knows of no flow: what there was ends with a goodbye, and the next packet asks again.
        before = answered()
        assert is_within(lambda: answered() > before + 5, RECOVERY_SECONDS)
    stage.connect(PAGE_URL6)  # another resource, so another flow


def test_access_ends_when_the_file_no_longer_grants_it(stage: Stage) -> None:
    stage.connect()
    with _edited_portal(stage, lambda content: content.update(policies=[])):
        assert is_within(lambda: stage.peers("client") == stage.peers("gateway") == [], GOODBYE_SECONDS)
        assert not reaches(stage.stack.lab)
    assert is_within(lambda: reaches(stage.stack.lab), RECOVERY_SECONDS)


def test_access_ends_when_it_expires(stage: Stage) -> None:
    stage.connect()
    seconds = 8  # the portal has to have read of it before, and the page has to be fetched
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)

    def expire(content: dict[str, Any]) -> None:
        for policy in content["policies"]:
            policy["expires_at"] = end.isoformat()

    with _edited_portal(stage, expire):
        stage.connect()  # not yet
        assert is_within(lambda: stage.peers("client") == stage.peers("gateway") == [], seconds + GOODBYE_SECONDS)
        assert datetime.now(UTC) >= end
    assert is_within(lambda: reaches(stage.stack.lab), RECOVERY_SECONDS)


def test_a_client_whose_token_is_taken_back_says_goodbye_and_why(stage: Stage) -> None:
    stage.connect()

    def take_back(content: dict[str, Any]) -> None:
        content["tokens"] = [token for token in content["tokens"] if token["type"] != "client"]

    with _edited_portal(stage, take_back):
        line = stage.expect_failure("client")
        assert is_within(lambda: stage.peers("gateway") == [], GOODBYE_SECONDS)
    stage.allowed += [line, PORTAL_AWAY]
    stage.lasting.append(WRONG_TOKENS)
    assert line.startswith("postern client: Failed to login to portal: ")
    assert "401 Unauthorized: the portal has no such token" in line
    stage.stack.start_client()


def test_an_upload_goes_on_while_its_client_changes_its_token(stage: Stage) -> None:
    """Both texts of the entry count until the client is there by the new one; then the old one is refused."""
    stage.connect()
    stack, before = stage.stack, stage.stack.tokens
    after = replace(before, client=f"{before.client}-2")
    try:
        with _edited_portal(stage, lambda content: _let_in(content, before.client, after.client)):
            with ThreadPoolExecutor(1) as threads:
                carried = _tunnelled_packets(stage)
                transfer = threads.submit(upload, stack.lab, 4_000_000, bytes_per_second=400_000)
                assert is_within(lambda: _tunnelled_packets(stage) > carried + 100, 10)
                stage.end("client")
                stack.tokens = after
                stack.start_client()
                assert not transfer.done()
                transfer.result()
            client = stage.process("client")
            with _edited_portal(stage, lambda content: _let_in(content, after.client)):
                stage.connect()
                assert client.running()
                stage.end("client")
                env = {"FIREZONE_API_URL": API_URL, "FIREZONE_TOKEN": before.client, "FIREZONE_DNS_CONTROL": "disabled"}
                refused = run_to_end(stack.lab.client, ["client"], env).complaint(1)
    finally:
        stack.tokens = before
    assert "401 Unauthorized: the portal has no such token" in refused
    stage.lasting.append(WRONG_TOKENS)
    stack.start_client()


def test_a_download_goes_on_while_its_client_reads_another_token(stage: Stage) -> None:
    """By SIGHUP, of a file: nothing has to be sent from this end."""
    stack, before = stage.stack, stage.stack.tokens
    after, file = f"{before.client}-2", stack.lab.logs / "token"
    file.touch(mode=0o600)
    file.write_text(before.client)
    stage.end("client")
    stack.tokens = replace(before, client=str(file))
    try:
        stack.start_client()
        stage.connect()
        client = stage.process("client")
        with _edited_portal(stage, lambda content: _let_in(content, before.client, after)):
            with ThreadPoolExecutor(1) as threads:
                carried, logs = _tunnelled_packets(stage), LogReader(stage)
                transfer = threads.submit(download, stack.lab, 4_000_000, bytes_per_second=400_000)
                assert is_within(lambda: _tunnelled_packets(stage) > carried + 100, 10)
                file.write_text(after)
                client.popen.send_signal(signal.SIGHUP)
                assert is_within(lambda: "Client joined" in logs.new_text("portal"), 10)
                assert not transfer.done()
                transfer.result()
            with _edited_portal(stage, lambda content: _let_in(content, after)):
                stage.connect()
                assert client.running()
                stage.end("client")
    finally:
        stack.tokens = before
        stage.ensure_running()


def _let_in(content: dict[str, Any], *texts: str) -> None:
    next(token for token in content["tokens"] if token["type"] == "client")["token"] = list(texts)


@pytest.mark.parametrize("role", ["gateway", "client"])
def test_who_loses_its_device_says_goodbye_and_why(stage: Stage, role: str) -> None:
    stage.connect()
    logs = LogReader(stage)
    # A packet may be written between the device's going down and its going away.
    stage.allowed.append(r" WARN connectivity::io: Tunnel error reason=eio error=tun-firezone is down, or ")
    network.execute(stage.stack.lab.namespace(role), ["ip", "link", "delete", "tun-firezone"])
    assert is_within(lambda: stage.peers(OTHER[role]) == [], GOODBYE_SECONDS)
    line = stage.expect_failure(role)
    stage.allowed.append(line)
    assert line == f"postern {role}: cannot read from tun-firezone: File descriptor in bad state"
    assert "left: goodbye" in logs.new_text(OTHER[role])
    stage.ensure_running()


@contextmanager
def _pings(stage: Stage) -> Iterator[Any]:
    """Ten packets a second through the tunnel; yields a function that counts the answers."""
    path = stage.stack.lab.logs / "ping"
    with path.open("wb") as output:
        argv = ["ip", "netns", "exec", stage.stack.lab.user, "ping", "-n", "-i", "0.1", "172.20.0.100"]
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.DEVNULL)
        try:
            yield lambda: path.read_text().count("bytes from")
        finally:
            process.kill()
            process.wait()


@contextmanager
def _edited_portal(stage: Stage, edit: Any) -> Iterator[None]:
    """The portal with another file for a while."""
    path = stage.stack.lab.logs / "portal.yaml"
    original = path.read_text(encoding="utf-8")
    content = yaml.safe_load(original)
    edit(content)
    try:
        _reload_portal(stage, yaml.safe_dump(content))
        yield
    finally:
        _reload_portal(stage, original)


def _reload_portal(stage: Stage, content: str) -> None:
    logs = LogReader(stage)
    (stage.stack.lab.logs / "portal.yaml").write_text(content, encoding="utf-8")
    stage.process("portal").popen.send_signal(signal.SIGHUP)
    wait_until(lambda: "Configuration read again" in logs.new_text("portal"), "the portal has read the file again")


def _tunnelled_packets(stage: Stage) -> int:
    """Packets that the client's device has carried, either way."""
    shown = network.execute(stage.stack.lab.client, ["ip", "-j", "-s", "link", "show", "tun-firezone"])
    (link,) = json.loads(shown)
    return sum(int(link["stats64"][way]["packets"]) for way in ("rx", "tx"))


def _xdp(stage: Stage) -> Any:
    """What the relay's interface says of an XDP program on it."""
    (link,) = json.loads(network.execute(stage.stack.lab.relay, ["ip", "-j", "link", "show", "eth0"]))
    return link.get("xdp")
