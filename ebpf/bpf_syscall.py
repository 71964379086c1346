"""bpf(2) itself: maps as bytes, test runs, links, and what the kernel knows about programs.

bcc compiles and loads; all else is done here, because the distribution's bcc has neither test runs nor links. Every
function raises OSError with the errno of the call. Layouts follow ``union bpf_attr`` of linux/bpf.h.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_SYSCALL: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT_KEY = 1, 2, 3, 4
_PROG_TEST_RUN, _PROG_FD_BY_ID, _INFO_BY_FD = 10, 13, 15
_LINK_CREATE, _LINK_UPDATE, _LINK_FD_BY_ID, _LINK_NEXT_ID = 28, 29, 30, 31
_ENABLE_STATS: Final = 32
_ATTACH_TYPE_XDP: Final = 37
_LINK_TYPE_XDP: Final = 6
_LIVE_FRAMES: Final = 1 << 1
_ATTRIBUTE_BYTES: Final = 152
_LIVE_BATCH: Final = 64  # frames per NAPI poll
# program, verdict, sizes in and out, data in and out, repeat, duration, context sizes and contexts, flags, CPU, batch
_TEST_RUN_FORMAT: Final = "=4I2Q4I2Q3I"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """A loaded program. Times are zero unless ``kernel.bpf_stats_enabled`` is set."""

    id: int
    name: str
    tag: str
    run_time_ns: int
    run_count: int


@dataclass(frozen=True, slots=True)
class MapInfo:
    """The geometry of a map, in bytes and entries."""

    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class XdpLink:
    """A program attached by a link, which some process holds open."""

    id: int
    program_id: int
    ifindex: int


def map_lookup(map_fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """The value, or None if there is no such key."""
    value = ctypes.create_string_buffer(value_bytes)
    key_buffer = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(_MAP_LOOKUP, struct.pack("=IIQQQ", map_fd, 0, _address(key_buffer), _address(value), 0))
    except FileNotFoundError:
        return None
    return value.raw


def map_update(map_fd: int, key: bytes, value: bytes) -> None:
    """Create or replace. OSError with E2BIG: the map is full."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value_buffer = ctypes.create_string_buffer(value, len(value))
    _bpf(_MAP_UPDATE, struct.pack("=IIQQQ", map_fd, 0, _address(key_buffer), _address(value_buffer), 0))


def map_delete(map_fd: int, key: bytes) -> bool:
    """Whether the key was there."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(_MAP_DELETE, struct.pack("=IIQQQ", map_fd, 0, _address(key_buffer), 0, 0))
    except FileNotFoundError:
        return False
    return True


def map_keys(map_fd: int, key_bytes: int) -> Iterator[bytes]:
    """All keys; not a snapshot if the map changes meanwhile."""
    key: ctypes.Array[ctypes.c_char] | None = None
    following = ctypes.create_string_buffer(key_bytes)
    while True:
        pointer = 0 if key is None else _address(key)
        try:
            _bpf(_MAP_NEXT_KEY, struct.pack("=IIQQQ", map_fd, 0, pointer, _address(following), 0))
        except FileNotFoundError:
            return
        yield following.raw
        key = ctypes.create_string_buffer(following.raw, key_bytes)


def map_info(map_fd: int) -> MapInfo:
    """The geometry that the kernel gave a map."""
    _, _, key_bytes, value_bytes, max_entries, flags = struct.unpack_from("=6I", _info(map_fd, 80))
    return MapInfo(key_bytes, value_bytes, max_entries, flags)


def possible_cpus() -> int:
    """How many values a per-CPU map has per key."""
    with open("/sys/devices/system/cpu/possible") as file:
        return int(file.read().strip().rpartition(",")[2].rpartition("-")[2]) + 1


def run_program(program_fd: int, frame: bytes) -> tuple[int, bytes]:
    """Run an XDP program once on a copy of ``frame``: its verdict, and the frame as it left it."""
    data_in = ctypes.create_string_buffer(frame, len(frame))
    data_out = ctypes.create_string_buffer(len(frame) + 512)
    attribute = _bpf(
        _PROG_TEST_RUN,
        struct.pack(
            "=IIIIQQIIIIQQIIII",
            *(program_fd, 0, len(frame), len(data_out), _address(data_in), _address(data_out)),
            *(1, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        ),
    )
    verdict, _, size_out = struct.unpack_from("=III", attribute, 4)
    return verdict, data_out.raw[:size_out]


def send_live_frame(program_fd: int, frame: bytes, count: int = 1) -> None:
    """Run an XDP program on real frames, whose verdicts are carried out (Linux 5.18). Their ingress is the loopback.

    The kernel makes few copies of ``frame`` and uses them again: a program sees what it wrote the time before.
    """
    data_in = ctypes.create_string_buffer(frame, len(frame))
    _bpf(
        _PROG_TEST_RUN,
        struct.pack(
            _TEST_RUN_FORMAT,
            *(program_fd, 0, len(frame), 0, _address(data_in), 0),
            *(count, 0, 0, 0, 0, 0, _LIVE_FRAMES, 0, min(count, _LIVE_BATCH)),
        ),
    )


def program_info(program_fd: int) -> ProgramInfo:
    """Name, tag and run time of a program."""
    info = _info(program_fd, 224)
    run_time_ns, run_count = struct.unpack_from("=QQ", info, 192)
    (program_id,) = struct.unpack_from("=I", info, 4)
    name = info[64:80].partition(b"\0")[0].decode("ascii", "replace")
    return ProgramInfo(program_id, name, info[8:16].hex(), run_time_ns, run_count)


def program_info_by_id(program_id: int) -> ProgramInfo:
    """What the kernel knows of a program of which only the id is known. Needs CAP_SYS_ADMIN."""
    program_fd = open_program(program_id)
    try:
        return program_info(program_fd)
    finally:
        os.close(program_fd)


def open_program(program_id: int) -> int:
    """A descriptor of a program of which only the id is known. Needs CAP_SYS_ADMIN."""
    return _bpf_fd(_PROG_FD_BY_ID, struct.pack("=III", program_id, 0, 0))[0]


def enable_run_time_statistics() -> int:
    """Have run times counted for as long as the returned descriptor is open. Needs CAP_SYS_ADMIN."""
    return _bpf_fd(_ENABLE_STATS, struct.pack("=I", 0))[0]


def create_xdp_link(program_fd: int, ifindex: int, flags: int) -> int:
    """Attach a program for as long as the returned descriptor is open. EBUSY: another program is there."""
    return _bpf_fd(_LINK_CREATE, struct.pack("=IIII", program_fd, ifindex, _ATTACH_TYPE_XDP, flags))[0]


def open_link(link_id: int) -> int:
    """A descriptor of a link of which only the id is known. Needs CAP_SYS_ADMIN."""
    return _bpf_fd(_LINK_FD_BY_ID, struct.pack("=III", link_id, 0, 0))[0]


def replace_program(link_fd: int, program_fd: int) -> None:
    """Put another program in the place of the one that a link holds."""
    _bpf(_LINK_UPDATE, struct.pack("=IIII", link_fd, program_fd, 0, 0))


def xdp_links() -> Iterator[XdpLink]:
    """All XDP links of the system. Needs CAP_SYS_ADMIN."""
    link_id = 0
    while True:
        try:
            attribute = _bpf(_LINK_NEXT_ID, struct.pack("=III", link_id, 0, 0))
        except FileNotFoundError:
            return
        (link_id,) = struct.unpack_from("=I", attribute, 4)
        try:
            link_fd = open_link(link_id)
        except FileNotFoundError:  # closed since
            continue
        try:
            kind, _, program_id, _, ifindex = struct.unpack_from("=5I", _info(link_fd, 64))
        finally:
            os.close(link_fd)
        if kind == _LINK_TYPE_XDP:
            yield XdpLink(link_id, program_id, ifindex)


def _info(object_fd: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    _bpf(_INFO_BY_FD, struct.pack("=IIQ", object_fd, size, _address(buffer)))
    return buffer.raw


def _bpf(command: int, fields: bytes) -> bytes:
    return _bpf_fd(command, fields)[1]


def _bpf_fd(command: int, fields: bytes) -> tuple[int, bytes]:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) is not known for {platform.machine()}")
    attribute = ctypes.create_string_buffer(fields, _ATTRIBUTE_BYTES)
    result = _libc.syscall(number, command, ctypes.byref(attribute), _ATTRIBUTE_BYTES)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result, attribute.raw


def _address(buffer: "ctypes.Array[ctypes.c_char]") -> int:
    return ctypes.addressof(buffer)
