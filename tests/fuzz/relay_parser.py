"""The XDP program's parser under libFuzzer: ``python -m tests.fuzz.relay_parser [options of libFuzzer, folders]``.

Compiles ``relay_parser.c`` with the address and the undefined-behaviour sanitizer and runs it from frames as the oracle
builds them, by default until a finding.
"""

import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import ebpf
from connectivity.endpoint import Endpoint
from ebpf.oracle import Datagram
from tests.fuzz.libfuzzer import compile_fuzzer, main

_SOURCE: Final = Path(__file__).with_suffix(".c")
_INCLUDE: Final = Path(ebpf.__file__).parent / "include"
_OPTIONS: Final = ("-Wno-unused-function", "-Wno-sign-compare", "-Wno-address-of-packed-member")
_CHOICES: Final = bytes((0, 1, 2, 3, 4, 5, 1, 0))


def build(directory: Path) -> Path | str:
    """The fuzzer, or why there is none."""
    return compile_fuzzer(directory / "relay_parser", [_SOURCE], (*_OPTIONS, f"-I{_INCLUDE}"))


def write_seeds(directory: Path) -> None:
    """A frame of either family: channel data, padded channel data, and a peer's datagram."""
    for version, (ours, theirs) in {4: ("192.0.2.1", "192.0.2.9"), 6: ("2001:db8::1", "2001:db8::9")}.items():
        remote, relay = Endpoint(ip_address(theirs), 40_000), ip_address(ours)
        for number, (port, payload) in enumerate(
            ((3478, b"\x40\x01\0\5hello"), (3478, b"\x40\x01\0\5hello\0\0\0"), (50_000, b"hello"), (3478, b""))
        ):
            packet = Datagram(remote, Endpoint(relay, port), payload).packet()
            ethertype = b"\x08\x00" if version == 4 else b"\x86\xdd"
            (directory / f"{version}-{number}").write_bytes(_CHOICES + bytes(12) + ethertype + packet)


if __name__ == "__main__":
    sys.exit(main(build, write_seeds, sys.argv[1:]))
