"""The TUN device of a service, with all that workers are to have where there are any."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from connectivity.errors import FatalError, chain
from connectivity.io.tun import Tun
from connectivity.io.tunnel_settings import TunnelSettings
from connectivity.io.tunnel_sockets import bind_beside
from connectivity.io.udp import UdpSocket

if TYPE_CHECKING:
    from connectivity.io.workers.fleet import Fleet

log = logging.getLogger("connectivity.io")


@contextmanager
def open_device(
    name: str, settings: TunnelSettings, sockets: Mapping[int, UdpSocket], workers: "Fleet | None"
) -> Iterator[Tun]:
    """The device while the context lasts. Where workers cannot have what they need, this process does it all.

    Raises:
        FatalError: there is no device to be had.
    """
    bind = partial(
        bind_beside,
        offloads=settings.udp_offloads,
        send_buffer_bytes=settings.send_buffer_bytes,
        receive_buffer_bytes=settings.receive_buffer_bytes,
    )
    with ExitStack() as opened:
        tun: Tun | None = None
        if workers is not None:
            opened.callback(workers.leave)
            try:
                tun = opened.enter_context(Tun.create(name, offloads=settings.tun_offloads, queues=True))
                workers.open(sockets, tun, bind)
            except (OSError, FatalError) as error:
                fields = {"error": chain(error)}
                log.warning("No worker processes: this one carries all packets", extra={"fields": fields})
        yield tun or opened.enter_context(Tun.create(name, offloads=settings.tun_offloads))
