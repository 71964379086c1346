"""What is made of a kernel that does not tell its addresses; what it tells is in tests/netns."""

import errno
from typing import Any, Self

import pytest
from pyroute2 import NetlinkError

from relay.driver import host_addresses as addresses


class SilentKernel:
    """Answers every question by an error."""

    def __init__(self, **_: Any) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get_addr(self) -> None:
        raise NetlinkError(errno.ENOBUFS)


def test_a_kernel_that_does_not_tell_is_an_error_that_the_driver_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "IPRoute", SilentKernel)
    with pytest.raises(OSError, match="No buffer space"):
        addresses.host_addresses()
