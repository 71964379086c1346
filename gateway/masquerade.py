"""What the host must do for the gateway: forward, and give packets of clients an address that resources can answer.

One nftables table of ours, replaced as a whole at start and deleted at the end, so nothing of anybody else is touched.
Where the host cannot do this (no ``nft``, read-only sysctls) the operator may have done it already: that is a warning,
not an end.
"""

import errno
import logging
import os
import subprocess
from pathlib import Path
from typing import Final

from connectivity.errors import chain
from connectivity.io.families import is_absent
from connectivity.io.privileges import privileged
from connectivity.tunnel import PEERS_IPV4, PEERS_IPV6

log = logging.getLogger("gateway")

TABLE: Final = "postern_gateway"
_FORWARDING: Final = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")


def rules(device: str) -> str:
    """The table as nft reads it."""
    return f"""
table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  chain forward {{
    type filter hook forward priority -1; policy accept;
    iifname "{device}" accept
    oifname "{device}" accept
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {PEERS_IPV4} oifname != "{device}" masquerade
    ip6 saddr {PEERS_IPV6} oifname != "{device}" masquerade
  }}
}}
"""


class Masquerade:
    """Applied when the device is ready, so that a gateway that is not let in changes nothing; removed at the end."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._applied = False

    def apply(self) -> None:
        """Forward and masquerade from now on; again is fine."""
        if self._applied:
            return
        for name in _FORWARDING:
            _enable(Path("/proc/sys") / name)
        try:
            _nft(rules(self._device))
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("Cannot masquerade clients by nftables", extra={"fields": {"error": chain(error)}})
        else:
            self._applied = True

    def remove(self) -> None:
        """Take the table away. Forwarding stays on: by now the host may need it for something else."""
        if self._applied:
            try:
                _nft(f"delete table inet {TABLE}\n")
            except (OSError, subprocess.SubprocessError) as error:
                log.warning("Cannot remove the nftables table", extra={"fields": {"error": chain(error)}})
            self._applied = False


def _enable(sysctl: Path) -> None:
    version = 6 if "ipv6" in sysctl.parts else 4
    try:
        if sysctl.read_text().strip() != "1":
            with privileged("switching it on", "CAP_NET_ADMIN"):
                sysctl.write_text("1")
    except OSError as error:
        if not is_absent(error, version):
            log.warning("Cannot enable forwarding", extra={"fields": {"sysctl": sysctl.name, "error": chain(error)}})


def _nft(script: str) -> None:
    done = subprocess.run(["nft", "-f", "-"], input=script, text=True, capture_output=True, timeout=10, check=False)
    if done.returncode == 0:
        return
    said = done.stderr.strip()
    if os.strerror(errno.EPERM) in said:
        with privileged("loading its rules", "CAP_NET_ADMIN"):
            raise OSError(errno.EPERM, f"nft: {said}")
    raise subprocess.SubprocessError(f"nft: {said or done.returncode}")
