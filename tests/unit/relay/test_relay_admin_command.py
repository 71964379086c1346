"""``postern relay admin`` as a container's root: it reaches the socket of another user, or says whose it is."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.root

READER: Final = 10001  # the user of our images
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
LISTING: Final = "port  by  client  user  ends in  to peers  to client\n"
COMMAND: Final = ("-c", "from relay import admin; import sys; admin.run(sys.argv[1:])", "list", "--socket")


@pytest.fixture
def admin_socket() -> Iterator[Path]:
    """As a relay in a container makes it: its own folder, its own socket."""
    with (
        tempfile.TemporaryDirectory() as name,  # not pytest's, which is root's alone up to the top
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening,
    ):
        folder = Path(name)
        path = folder / "relay.sock"
        listening.bind(str(path))
        path.chmod(0o600)
        for place in (path, folder):
            os.chown(place, READER, READER)
        listening.listen()

        def serve() -> None:
            accepted, _ = listening.accept()
            with accepted:
                if accepted.recv(1000):
                    accepted.sendall(ANSWER)

        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:  # in case nobody came
            last.connect(str(path))
        thread.join()


def ask(path: Path, *confined: str) -> subprocess.CompletedProcess[str]:
    command = ["setpriv", *confined, "--no-new-privs", sys.executable, *COMMAND, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def test_a_root_who_may_become_others_becomes_the_owner(admin_socket: Path) -> None:
    done = ask(admin_socket, "--bounding-set", "-all,+setuid,+setgid")
    assert (done.stdout, done.stderr) == (LISTING, "")


def test_who_may_not_is_told_whose_it_is(admin_socket: Path) -> None:
    done = ask(admin_socket, "--bounding-set", "-all")
    assert f"the admin socket {admin_socket} is for user {READER}, and this is user root" in done.stderr
