"""Moves known bytes over TCP or UDP and says what arrived: the judge of what a tunnel did to them.

python -m tests.netns.plain_transfer tcp-serve ADDRESS             prints "ready", then the SHA-256 of one stream
python -m tests.netns.plain_transfer tcp-send ADDRESS BYTES MSS    prints the SHA-256 of what it sent
python -m tests.netns.plain_transfer udp-serve ADDRESS COUNT       prints "ready", then one digest over all datagrams
python -m tests.netns.plain_transfer udp-send ADDRESS COUNT SIZE   likewise; SIZE 0 sends sizes of all kinds
python -m tests.netns.plain_transfer udp-send ADDRESS COUNT SIZE segment     by UDP_SEGMENT, 40 at a time
"""

import hashlib
import socket
import struct
import sys
import time
from ipaddress import ip_address

PORT = 52001
UDP_SEGMENT = 103
SO_RCVBUFFORCE = 33
# A whole multiple is no pattern of any segment size.
BLOCK = bytes((index * 7 + index // 251) & 0xFF for index in range(65521))


def main() -> None:
    mode, address, *rest = sys.argv[1:]
    family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
    kind = socket.SOCK_STREAM if mode.startswith("tcp") else socket.SOCK_DGRAM
    with socket.socket(family, kind) as opened:
        opened.settimeout(20)
        if mode == "tcp-serve":
            digest = serve_tcp(opened, address)
        elif mode == "tcp-send":
            digest = send_tcp(opened, address, int(rest[0]), int(rest[1]))
        elif mode == "udp-serve":
            digest = serve_udp(opened, address, int(rest[0]))
        else:
            digest = send_udp(opened, address, int(rest[0]), int(rest[1]), segmented=rest[2:] == ["segment"])
    print(digest, flush=True)


def serve_tcp(opened: socket.socket, address: str) -> str:
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind((address, PORT))
    opened.listen()
    print("ready", flush=True)
    digest = hashlib.sha256()
    stream, _ = opened.accept()
    with stream:
        stream.settimeout(20)
        while data := stream.recv(1 << 18):
            digest.update(data)
    return digest.hexdigest()


def send_tcp(opened: socket.socket, address: str, size: int, mss: int) -> str:
    if mss:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
    opened.connect((address, PORT))
    digest = hashlib.sha256()
    while size > 0:
        block = BLOCK[: min(size, len(BLOCK))]
        opened.sendall(block)
        digest.update(block)
        size -= len(block)
    opened.shutdown(socket.SHUT_WR)
    assert opened.recv(1) == b""
    return digest.hexdigest()


def serve_udp(opened: socket.socket, address: str, count: int) -> str:
    opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
    opened.bind((address, PORT))
    print("ready", flush=True)
    return digest_of({opened.recv(65536) for _ in range(count)})


def send_udp(opened: socket.socket, address: str, count: int, size: int, *, segmented: bool) -> str:
    opened.connect((address, PORT))
    sent = [datagram(index, size or 1 + index * 37 % 1200) for index in range(count)]
    if segmented:
        opened.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        for start in range(0, count, 40):
            opened.send(b"".join(sent[start : start + 40]))
    else:
        for index, data in enumerate(sent):
            opened.send(data)
            if index % 200 == 199:
                time.sleep(0.005)  # paces a sender that nothing else would stop; no test waits for it
    return digest_of(set(sent))


def datagram(index: int, size: int) -> bytes:
    return (struct.pack(">I", index) + BLOCK[index : index + size])[: max(size, 4)]


def digest_of(datagrams: set[bytes]) -> str:
    return hashlib.sha256(b"".join(sorted(datagrams))).hexdigest()


if __name__ == "__main__":
    main()
