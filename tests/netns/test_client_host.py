"""Names at a client's host by real programs: the client's process, name servers, dig and curl. See ``client_host``."""

import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.plan import PORTAL
from lab.processes import Process, wait_until
from lab.resource import PAGE
from tests.netns import site_servers
from tests.netns.client_host import HOST_TEXT, RESOURCE_NAME, SENTINELS, ClientHost, client_host, end

pytestmark = pytest.mark.root

BACKUP = Path("/etc/resolv.conf.before-firezone")


@pytest.fixture(scope="module")
def host() -> Iterator[ClientHost]:
    with client_host() as found:
        yield found


@pytest.fixture(autouse=True)
def pristine(host: ClientHost) -> None:
    """The host's own resolv.conf, whatever the test before has left."""
    host.resolv_conf.write_text(HOST_TEXT)
    BACKUP.unlink(missing_ok=True)


@pytest.fixture
def client(host: ClientHost) -> Iterator[Process]:
    """One that has taken the host's DNS over, and has given it back at the end of the test."""
    process = host.start("etc-resolv-conf")
    try:
        host.wait_for(process, host.is_ours, "resolv.conf names the client")
        yield process
        assert end(process) == 0, process.log_text()
        assert host.resolv_conf.read_text() == HOST_TEXT
        assert not BACKUP.exists()
    finally:
        process.terminate()


@pytest.mark.parametrize("over", ["+notcp", "+tcp"])
@pytest.mark.parametrize("version", [4, 6])
def test_names_of_the_hosts_servers(host: ClientHost, client: Process, version: int, over: str) -> None:
    del client
    (sentinel,) = [server for server in host.nameservers() if (":" in server) == (version == 6)]
    assert sentinel.startswith(SENTINELS[version == 6])
    assert host.dig(over, f"@{sentinel}", "four.internal") == ["192.0.2.4"]
    assert set(host.dig(over, f"@{sentinel}", "many.internal")) == set(site_servers.MANY)
    assert "status: NXDOMAIN" in host.run("dig", over, f"@{sentinel}", "nobody.internal")


def test_what_udp_has_no_room_for_comes_by_tcp(host: ClientHost, client: Process) -> None:
    del client
    texts = {f'"{text}"' for text in site_servers.LONG_TEXTS}
    assert set(host.dig("TXT", "long.internal")) == texts
    assert " tc " in host.run("dig", "+ignore", "TXT", "long.internal")
    assert set(host.dig("+notcp", "+bufsize=512", "TXT", "long.internal")) == texts


def test_many_queries_of_one_connection(host: ClientHost, client: Process) -> None:
    names = ["four.internal", "A", "many.internal", "AAAA", RESOURCE_NAME, "A"] * 20
    assert len(host.dig("+tcp", "+keepopen", *names)) == 20 * 5
    assert "Traceback" not in client.log_text()


def test_a_page_of_a_resource_by_its_name(host: ClientHost, client: Process) -> None:
    del client
    assert len(host.dig(RESOURCE_NAME, "A")) == len(host.dig("+tcp", RESOURCE_NAME, "AAAA")) == 4
    for family in ("-4", "-6"):
        page = host.run("curl", family, "-sSf", "--max-time", "20", f"http://{RESOURCE_NAME}/")
        assert page.encode() == PAGE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_gives_the_hosts_dns_back(host: ClientHost, number: signal.Signals) -> None:
    client = host.start("etc-resolv-conf")
    host.wait_for(client, host.is_ours, "resolv.conf names the client")
    inode = host.resolv_conf.stat().st_ino
    assert end(client, number) == 0
    assert host.resolv_conf.read_text() == HOST_TEXT
    assert host.resolv_conf.stat().st_ino == inode


def test_an_error_that_ends_the_client_gives_it_back_too(host: ClientHost) -> None:
    client = host.start("etc-resolv-conf")
    host.wait_for(client, host.is_ours, "resolv.conf names the client")
    host.run("ip", "link", "delete", "tun-firezone")
    assert client.popen.wait(20) == 1
    assert host.resolv_conf.read_text() == HOST_TEXT


@pytest.mark.parametrize("next_mode", ["etc-resolv-conf", "disabled", "systemd-resolved"])
def test_after_a_kill_the_next_start_gives_it_back(host: ClientHost, next_mode: str) -> None:
    killed = host.start("etc-resolv-conf")
    host.wait_for(killed, host.is_ours, "resolv.conf names the client")
    end(killed, signal.SIGKILL)
    assert host.is_ours()
    environment = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/none"}  # no resolved: it ends with an error
    client = host.start(
        next_mode, FIREZONE_TOKEN="of-nobody-who-is-known", **environment
    )  # never gets far enough to write
    assert client.popen.wait(20) == 1
    assert "Put resolv.conf back" in client.log_text()
    assert host.resolv_conf.read_text() == HOST_TEXT
    assert not BACKUP.exists()


def test_servers_that_dhcp_writes_meanwhile_are_asked_and_stay(host: ClientHost, client: Process) -> None:
    before = host.nameservers()
    written = f"# by DHCP\nnameserver {PORTAL.address}\n"
    host.resolv_conf.write_text(written)
    host.wait_for(client, lambda: host.is_ours() and len(host.nameservers()) == 1, "the client has seen it")
    assert host.nameservers()[0] not in before  # the host is to notice
    assert host.dig("four.internal") == ["192.0.2.4"]
    assert end(client) == 0
    assert host.resolv_conf.read_text() == written
    host.resolv_conf.write_text(HOST_TEXT)


def test_a_forwarder_of_the_host_that_asks_us_in_turn_is_left_out(host: ClientHost) -> None:
    """dnsmasq as it is installed takes its servers from resolv.conf, but for itself."""
    host.resolv_conf.write_text(f"nameserver 127.0.0.1\nnameserver {PORTAL.address}\n")
    command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file", "--no-hosts"]
    command += ["--bind-interfaces", "--listen-address=127.0.0.1", "--no-poll"]
    with ExitStack() as started:
        forwarder = host.lab.spawn("forwarder", host.lab.client, command)
        started.callback(forwarder.terminate)
        works = ["192.0.2.4"]
        wait_until(lambda: host.dig_patiently("@127.0.0.1", "four.internal") == works, "it works", [forwarder])
        client = host.start("etc-resolv-conf")
        started.callback(client.terminate)
        host.wait_for(client, host.is_ours, "resolv.conf names the client")
        forwarder.popen.send_signal(signal.SIGHUP)  # what inotify tells it where the file is no mount
        told = "A DNS server of this host asks us what we ask it"
        host.wait_for(client, lambda: told in client.log_text(), "the circle is found")
        host.wait_for(client, lambda: host.is_ours() and len(host.nameservers()) == 1, "it is left out")
        forwarder.popen.send_signal(signal.SIGHUP)
        assert re.search(f"{told}.* server=127.0.0.1$", client.log_text(), re.MULTILINE)
        for server in (host.nameservers()[0], "127.0.0.1"):  # whoever asks the forwarder still gets an answer
            assert host.dig(f"@{server}", "four.internal") == ["192.0.2.4"]
            assert len(host.dig(f"@{server}", RESOURCE_NAME)) == 4
        assert end(client) == 0
        assert host.nameservers() == ["127.0.0.1", PORTAL.address]
