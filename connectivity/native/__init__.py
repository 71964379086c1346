"""The compiled helper, found and chosen: optional, and never more than a faster way to what Python does itself.

It is made from the C sources here by ``build.py`` and lies beside them in ``built``; the cipher is that of the host's
OpenSSL 3. Where anything of that is missing, of other sources or wrong, Python does the work and the reason is told.
"""

import logging
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from connectivity import accelerator
from connectivity.errors import chain
from connectivity.native.build import BUILT, INTERFACE, LIBRARY, digest
from connectivity.native.helper import Helper

__all__ = ["CHOICES", "SETTING", "Helper", "NoHelper", "choose", "load"]

SETTING: Final = "POSTERN_NATIVE"
CHOICES: Final = ("auto", "off")

_PACKET: Final = memoryview(b"a packet")
_OVERHEAD_BYTES: Final = 32  # of a data message; settings import this module, which is to be quick without wireguard

_log = logging.getLogger("connectivity.native")


class NoHelper(Exception):
    """The helper cannot be used: it is missing, does not load, or fails its test."""


def choose(choice: str) -> None:
    """Have this process work with the helper if there is one and ``choice`` is not off."""
    if choice == "off":
        accelerator.use(None)
        _log.info("Runs are handled in Python", extra={"fields": {"reason": f"{SETTING}=off"}})
        return
    try:
        accelerator.use(load())
    except NoHelper as error:
        accelerator.use(None)
        _log.info("Runs are handled in Python", extra={"fields": {"reason": chain(error)}})
    else:
        _log.info("Runs are handled by the compiled helper")


def load(folder: Path = BUILT) -> Helper:
    """The helper that lies in ``folder``.

    Raises:
        NoHelper: with the reason.
    """
    library, interface = folder / LIBRARY, folder / INTERFACE
    if not library.is_file() or not interface.is_file():
        raise NoHelper(f"the helper is not compiled: there is no {library.name} in {folder}")
    try:
        ffi = _interface(interface)
        # For good: when the process ends, sessions may go after whoever has loaded what frees them.
        opened = ffi.dlopen(str(library), ffi.RTLD_NOW | ffi.RTLD_NODELETE)
        made_from = ffi.string(opened.postern_sources()).decode()
    except (ImportError, AttributeError, OSError) as error:
        raise NoHelper(f"cannot load {library}") from error
    if made_from != digest():
        raise NoHelper(f"{library} was compiled from other sources")
    missing = opened.postern_load_cipher()
    if missing != ffi.NULL:
        raise NoHelper(f"no cipher for the helper: {ffi.string(missing).decode()}")
    helper = Helper(ffi, opened)
    if not _agrees(helper):
        raise NoHelper("the helper's cipher is not WireGuard's")
    return helper


def _interface(path: Path) -> Any:
    loader = SourceFileLoader("connectivity.native.interface", str(path))
    module = ModuleType(loader.name)
    loader.exec_module(module)
    return module.ffi


def _agrees(helper: Helper) -> bool:
    """Whether it seals as WireGuard does (paper, section 5.4.6): libcrypto is the host's, and might be any."""
    key, output = bytes(range(32)), memoryview(bytearray(len(_PACKET) + _OVERHEAD_BYTES))
    cipher = helper.cipher(key, key, 1)
    if cipher is None or not cipher.seal(_PACKET, len(_PACKET), 0, 2, output):
        return False
    nonce = bytes(4) + (2).to_bytes(8, "little")
    header = b"\4\0\0\0" + (1).to_bytes(4, "little") + nonce[4:]
    return output == header + ChaCha20Poly1305(key).encrypt(nonce, bytes(_PACKET), None)
