"""One end of a tunnel without encryption: device → split → UDP batches → split by flow → merge → device.

    python -m tests.netns.plain_tunnel NAME LOCAL REMOTE INNER4 INNER6 [tso,uso,gso,gro]

Prints ``ready`` when traffic can flow and its counters, as one JSON line, when its standard input ends.
"""

import dataclasses
import json
import os
import select
import sys
from ipaddress import IPv4Address, IPv6Address, ip_network

from connectivity.endpoint import Endpoint
from connectivity.io import host
from connectivity.io.tun import Tun
from connectivity.io.udp import UdpSocket
from connectivity.ip import IpError, split_flows
from connectivity.run import Transmit

PORT = 51900


def main() -> None:
    name, local, remote, inner4, inner6, offloads = (*sys.argv[1:], "tso,uso,gso,gro")[:6]
    wanted = frozenset(offloads.split(","))
    udp = UdpSocket.bind(local, PORT, mark=host.SOCKET_MARK, gso="gso" in wanted, gro="gro" in wanted)
    with Tun.create(name, offloads=wanted) as tun:
        host.configure(name, IPv4Address(inner4), IPv6Address(inner6))
        host.set_routes(name, [ip_network("100.64.0.0/11"), ip_network("fd00:2021:1111::/107")])
        started = os.times()
        errors = _forward(tun, udp, Endpoint.parse(f"{remote}:{PORT}" if "." in remote else f"[{remote}]:{PORT}"))
        counters = {"tun": dataclasses.asdict(tun.counters), "udp": dataclasses.asdict(udp.counters)}
        used = os.times()
        counters["cpu"] = {"user": used.user - started.user, "system": used.system - started.system}
        report = counters | {"tso": tun.tso, "uso": tun.uso, "gso": udp.gso, "gro": udp.gro, "errors": errors}
    udp.close()
    print(json.dumps(report), flush=True)


def _forward(tun: Tun, udp: UdpSocket, remote: Endpoint) -> list[str]:
    errors: list[IpError] = []
    refused: list[Exception] = []
    poll = select.epoll()
    poll.register(tun.fileno(), select.EPOLLIN)
    poll.register(udp.fileno(), select.EPOLLIN)
    poll.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)
    print("ready", flush=True)
    while True:
        for descriptor, _ in poll.poll(0.05 if udp.backlogged else -1):
            if descriptor == tun.fileno():
                for packets in tun.read(100):
                    problem = udp.send(Transmit(None, remote, packets.run, packets.tos))
                    refused += [problem] if problem is not None else []
            elif descriptor == udp.fileno():
                for received in udp.receive(4):
                    for packets in split_flows(received.run, errors):
                        tun.write(packets)
            elif not os.read(descriptor, 1):
                return [str(error) for error in [*errors, *refused, *udp.take_errors(), *tun.take_errors()]]
        udp.flush()


if __name__ == "__main__":
    main()
