"""Codecs of the fields of messages between core and worker: written as bytes, and read with every bound checked."""

import struct
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.key_pair import KEY_BYTES
from connectivity.run import Run
from connectivity.wireguard.noise import TransportKeys


class Reader:
    """A cursor over a message: what is left to be read."""

    def __init__(self, data: memoryview) -> None:
        self.data = data

    def take(self, size: int) -> memoryview:
        """Read the next bytes.

        Raises:
            ValueError: there are not so many.
        """
        taken = self.data[:size]
        if len(taken) != size:
            raise ValueError("too short")
        self.data = self.data[size:]
        return taken


class Field(NamedTuple):
    """One kind of value. ``read`` raises ValueError, KeyError or struct.error for what is none."""

    write: Callable[[Any], Iterable[bytes | memoryview]]
    read: Callable[[Reader], Any]


def _number(form: str) -> Field:
    packed = struct.Struct(form)

    def write(value: int) -> Iterable[bytes]:
        return (packed.pack(value),)

    def read(reader: Reader) -> int | bool:
        found: int | bool = packed.unpack(reader.take(packed.size))[0]
        return found

    return Field(write, read)


def optional(field: Field) -> Field:
    """A field that may be None: one byte says whether it is there."""

    def write(value: Any) -> Iterable[bytes | memoryview]:
        return (b"\0",) if value is None else (b"\1", *field.write(value))

    def read(reader: Reader) -> Any:
        return field.read(reader) if reader.take(1)[0] else None

    return Field(write, read)


def _write_octets(value: bytes | memoryview) -> Iterable[bytes | memoryview]:
    return (len(value).to_bytes(2, "big"), value)


def _read_octets(reader: Reader) -> bytes:
    return bytes(reader.take(int.from_bytes(reader.take(2), "big")))


def _write_keys(value: TransportKeys) -> Iterable[bytes]:
    return value


def _read_keys(reader: Reader) -> TransportKeys:
    return TransportKeys(bytes(reader.take(KEY_BYTES)), bytes(reader.take(KEY_BYTES)))


def _write_counts(value: tuple[int, ...]) -> Iterable[bytes]:
    return (struct.pack(f"=B{len(value)}q", len(value), *value),)


def _read_counts(reader: Reader) -> tuple[int, ...]:
    (size,) = reader.take(1)
    return struct.unpack(f"={size}q", reader.take(8 * size))


def _write_address(value: IPAddress) -> Iterable[bytes]:
    return (bytes((value.version,)), value.packed)


def _read_address(reader: Reader) -> IPAddress:
    return ip_address(bytes(reader.take({4: 4, 6: 16}[reader.take(1)[0]])))


def _write_endpoint(value: Endpoint) -> Iterable[bytes]:
    return (*_write_address(value.ip), value.port.to_bytes(2, "big"))


def _read_endpoint(reader: Reader) -> Endpoint:
    address = _read_address(reader)
    return Endpoint(address, int.from_bytes(reader.take(2), "big"))


def _write_run(value: Run) -> Iterable[bytes | memoryview]:
    return (value.segment_size.to_bytes(4, "big"), value.data)


def _read_run(reader: Reader) -> Run:
    size = int.from_bytes(reader.take(4), "big")
    data = reader.take(len(reader.data))
    if size > len(data):
        raise ValueError("no run")
    return Run(data, size)


WORD: Final = _number("=I")
LONG: Final = _number("=q")
BYTE: Final = _number("=B")
FLAG: Final = _number("=?")
PORT: Final = _number("=H")
OCTETS: Final = Field(_write_octets, _read_octets)
COUNTS: Final = Field(_write_counts, _read_counts)
KEYS: Final = Field(_write_keys, _read_keys)
ADDRESS: Final = optional(Field(_write_address, _read_address))
ENDPOINT: Final = Field(_write_endpoint, _read_endpoint)
RUN: Final = Field(_write_run, _read_run)
