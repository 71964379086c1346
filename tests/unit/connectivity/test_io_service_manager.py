"""What a service manager hears: datagrams to the socket that it names, by path or abstract, and no fuss without one."""

import os
import socket
from pathlib import Path

import pytest

from connectivity.io import service_manager


@pytest.mark.parametrize("is_abstract", [True, False])
def test_it_hears_that_we_are_ready_and_that_we_stop(
    is_abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"postern-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if is_abstract else str(tmp_path / name))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if is_abstract else str(tmp_path / name))
        service_manager.tell(service_manager.READY)
        service_manager.tell(service_manager.STOPPING)
        assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STOPPING=1"]


@pytest.mark.parametrize("value", [None, "", "relative", "/nobody/is/there", "@postern-nobody-is-there"])
def test_nobody_there_is_no_error(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if value is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", value)
    service_manager.tell(service_manager.READY)
