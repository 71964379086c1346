"""What ``helm test`` runs: whether every address of every URL answers. Needs nothing but Python.

``http://`` wants a 200, ``stun://`` the answer to a Binding request (RFC 8489 §7). Exit code 1 if one does not.
"""

import http.client
import os
import socket
import sys
from urllib.parse import SplitResult, urlsplit

SECONDS = 5.0
ATTEMPTS = 3
BINDING_REQUEST = bytes.fromhex("000100002112a442")
BINDING_SUCCESS = bytes.fromhex("0101")


def ask_http(address: str, url: SplitResult) -> None:
    connection = http.client.HTTPConnection(address, url.port, timeout=SECONDS)
    connection.request("GET", url.path, headers={"Host": url.netloc})
    answer = connection.getresponse()
    if answer.status != 200:
        raise OSError(f"status {answer.status}: {answer.read(200)!r}")


def ask_stun(address: str, url: SplitResult) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    transaction = os.urandom(12)
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.settimeout(SECONDS / ATTEMPTS)
        asking.connect((address, url.port))
        for _ in range(ATTEMPTS):
            try:
                asking.send(BINDING_REQUEST + transaction)
                answer = asking.recv(1500)
            except TimeoutError:
                continue
            if answer[:2] == BINDING_SUCCESS and answer[8:20] == transaction:
                return
            raise OSError(f"not a Binding success: {answer.hex()}")
    raise OSError("no answer")


def check(text: str) -> bool:
    url = urlsplit(text)
    ask = {"http": ask_http, "stun": ask_stun}[url.scheme]
    try:
        found = socket.getaddrinfo(url.hostname, url.port, type=socket.SOCK_STREAM)
    except OSError as error:
        print(f"{text}: {error}: nobody is ready there")
        return False
    passed = True
    for address in sorted({str(entry[4][0]) for entry in found}):
        try:
            ask(address, url)
        except (OSError, http.client.HTTPException) as error:
            print(f"{text} at {address}: {error}")
            passed = False
        else:
            print(f"{text} at {address}: ok")
    return passed


if __name__ == "__main__":
    passed = [check(text) for text in sys.argv[1:]]
    sys.exit(0 if all(passed) else 1)
