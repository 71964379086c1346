"""The pure C headers compile on the host, without warnings, and their sums are those of the oracle."""

import ctypes
import subprocess
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ebpf
from ebpf.oracle import ones_complement_sum

INCLUDE: Final = Path(ebpf.__file__).parent / "include"
SOURCE: Final = """
#include <linux/types.h>
#include <linux/stddef.h>
#include "abi.h"
#include "checksum.h"
#include "parse.h"
#include "rewrite.h"
#include "wire.h"
__u16 fold(__u64 sum) { return checksum_fold(sum); }
__u16 udp_field(__u64 sum) { return checksum_udp_field(sum); }
__u16 replaced(__u16 field, __u32 removed, __u32 added)
{
	return (__u16)~checksum_fold(checksum_replace32((__u16)~field, removed, added));
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    directory = tmp_path_factory.mktemp("headers")
    (directory / "headers.c").write_text(SOURCE)
    # Aligned packet pointers are the driver's promise; pragma unroll is clang's.
    flags = [
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unused-function",
        "-Wno-unknown-pragmas",
        "-Wno-sign-compare",
        f"-I{INCLUDE}",
    ]
    flags += ["-Wno-address-of-packed-member", "-shared", "-fPIC", "-O1"]
    output = directory / "headers.so"
    subprocess.run(["cc", *flags, str(directory / "headers.c"), "-o", str(output)], check=True)
    loaded = ctypes.CDLL(str(output))
    loaded.fold.argtypes = loaded.udp_field.argtypes = [ctypes.c_uint64]
    loaded.replaced.argtypes = [ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint32]
    loaded.fold.restype = loaded.udp_field.restype = loaded.replaced.restype = ctypes.c_uint16
    return loaded


@given(sum_=st.integers(0, 2**64 - 1))
def test_folding_keeps_the_value_modulo_0xffff(library: ctypes.CDLL, sum_: int) -> None:
    folded = library.fold(sum_)
    assert folded % 0xFFFF == sum_ % 0xFFFF
    assert (folded == 0) == (sum_ == 0)


@given(sum_=st.integers(0, 2**64 - 1))
def test_a_udp_checksum_is_never_zero(library: ctypes.CDLL, sum_: int) -> None:
    assert library.udp_field(sum_) != 0


@given(words=st.binary(min_size=12, max_size=12), added=st.binary(min_size=4, max_size=4))
def test_a_replaced_word_gives_the_checksum_of_the_new_data(library: ctypes.CDLL, words: bytes, added: bytes) -> None:
    """RFC 1624 equation 3, against computing it anew; in the memory order of words, as the program does."""
    field = 0xFFFF - ones_complement_sum(words)
    wanted = 0xFFFF - ones_complement_sum(added + words[4:])
    in_memory = int.from_bytes(field.to_bytes(2, "big"), "little")
    removed = int.from_bytes(words[:4], "little")
    got = library.replaced(in_memory, removed, int.from_bytes(added, "little"))
    assert int.from_bytes(got.to_bytes(2, "little"), "big") % 0xFFFF == wanted % 0xFFFF


def test_headers_know_neither_bcc_nor_maps() -> None:
    for header in INCLUDE.glob("*.h"):
        text = header.read_text()
        assert "BPF_" not in text.replace("POSTERN_", ""), header.name
        assert ".lookup(" not in text
        assert text.startswith("// SPDX-License-Identifier:")
