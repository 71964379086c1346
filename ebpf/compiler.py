"""The process that compiles and verifies an XDP program with bcc: the only importer of bcc.

``loader`` starts it as a script with a JSON request as argument and a socket as descriptor; program and maps go back
through the socket as descriptors. So the memory of bcc's compiler, some 100 MB, is given back when it is done, and
what compiler and verifier write to standard error is this process's own. It imports nothing of ours, and yields to the
relay, which serves meanwhile.
"""

import importlib
import json
import os
import socket
import sys
from typing import Any, Final

_NICE: Final = 5


class BccMissingError(Exception):
    """bcc cannot be imported; says what to install."""


def import_bcc() -> Any:
    """bcc, which comes from the distribution.

    Raises:
        BccMissingError: it cannot be imported by this Python.
    """
    try:
        return importlib.import_module("bcc")
    except (ImportError, OSError) as error:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise BccMissingError(
            f"bcc cannot be imported by Python {version} (install python3-bpfcc; a virtual environment needs "
            f"--system-site-packages): {error}"
        ) from None


def main() -> None:
    """Answer with ``{}`` and descriptors, or with ``missing`` (bcc) or ``refused`` (by compiler or verifier)."""
    os.nice(_NICE)
    request = json.loads(sys.argv[1])
    with socket.socket(fileno=int(sys.argv[2])) as answer:
        try:
            bcc = import_bcc()
        except BccMissingError as error:
            answer.sendall(json.dumps({"missing": str(error)}).encode())
            return
        try:
            module = bcc.BPF(src_file=os.fsencode(request["source"]), cflags=request["flags"])
            function = module.load_func(request["name"].encode(), bcc.BPF.XDP)
        except Exception as error:  # noqa: BLE001  # bcc raises the bare class for everything; all of it is told
            answer.sendall(json.dumps({"refused": str(error)}).encode())
            return
        maps = [int(bcc.lib.bpf_table_fd(module.module, name.encode())) for name in request["maps"]]
        socket.send_fds(answer, [b"{}"], [function.fd, *maps])


if __name__ == "__main__":
    main()
