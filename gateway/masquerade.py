"""What the host must do for the gateway: forward, and give packets of clients an address that resources can answer.

One nftables table of ours (``gateway.rules``), replaced as a whole at start and deleted at the end, so nothing of
anybody else is touched. The table is there before forwarding is on, and until it is off again; what was on before stays
on. Where the host cannot do this (no ``nft``, read-only sysctls) the operator may have done it already: that is a
warning, not an end.
"""

import logging
import threading
from pathlib import Path
from typing import Final

from connectivity.errors import chain
from connectivity.io import nftables
from connectivity.io.nftables import NftError
from connectivity.io.privileges import privileged
from gateway import firewall, rules
from gateway.forward import Forward

log = logging.getLogger("gateway")

FORWARDING: Final = {"ipv4": "net/ipv4/ip_forward", "ipv6": "net/ipv6/conf/all/forwarding"}
_SYSCTL: Final = Path("/proc/sys")
_CONNECTIONS: Final = Path("/proc/net/nf_conntrack")


class Masquerade:
    """Applied when the device is ready, so that a gateway that is not let in changes nothing; removed at the end.

    Both run programs and wait for them: threads may call them, and take turns.
    """

    def __init__(self, device: str, forward: Forward | None = None) -> None:
        """``forward`` None confines the families whose forwarding is switched on here."""
        self._device = device
        self._forward = forward
        self._applied = False
        self._switched_on: list[str] = []
        self._turn = threading.Lock()

    def apply(self) -> None:
        """Forward and masquerade from now on; again is fine."""
        with self._turn:
            if not self._applied:
                self._apply()

    def remove(self) -> None:
        """Switch off what was switched on here, then take the table away.

        Its masquerade stays where clients have connections, which the next run of the gateway goes on with.
        """
        with self._turn:
            if self._applied:
                self._applied = False
                self._remove()

    def _apply(self) -> None:
        present = [family for family, name in FORWARDING.items() if (_SYSCTL / name).exists()]
        off = [family for family in present if not _is_on(FORWARDING[family])]
        left = _left_by_a_former_run()
        ours = [family for family in present if family in off or family in left]
        confined = {None: ours, Forward.TUNNEL: list(rules.FAMILIES), Forward.HOST: []}[self._forward]
        try:
            nftables.run(rules.rules(self._device, confined, ours))
        except NftError as error:
            fields = {"error": chain(error), "consequence": "forwarding is left as it is, to whoever asks"}
            log.warning("Cannot masquerade clients by nftables", extra={"fields": fields})
            return
        self._applied = True
        self._switched_on = ours
        for family in present:
            _enable(FORWARDING[family])
        _enable(f"net/ipv4/conf/{self._device}/forwarding")  # born with the host's default, which may be off
        open_families = [family for family in present if family not in confined]
        if open_families:
            fields = {"families": ",".join(open_families), "remedy": "POSTERN_FORWARD=tunnel"}
            level = logging.INFO if self._forward is Forward.HOST else logging.WARNING
            log.log(level, "The host forwards for whoever routes through it", extra={"fields": fields})
        for finding in firewall.examine(self._device):
            log.warning("Another table drops the tunnel's traffic", extra={"fields": finding.fields()})

    def _remove(self) -> None:
        for family in self._switched_on:
            _set(FORWARDING[family], "0")
        waiting = _clients_have_connections()
        try:
            nftables.run(rules.only_masquerade(self._device) if waiting else rules.removal())
        except NftError as error:
            log.warning("Cannot remove the nftables table", extra={"fields": {"error": chain(error)}})
            return
        if waiting:
            fields = {"table": f"inet {rules.TABLE}", "reason": "connections of clients outlive this run"}
            log.info("The masquerade stays", extra={"fields": fields})


def _left_by_a_former_run() -> list[str]:
    """The families that a gateway which was killed had switched on."""
    try:
        objects = nftables.listing("table", "inet", rules.TABLE)
    except NftError:
        return []  # the usual case: there is no such table
    names = {entry["chain"].get("name") for entry in objects if "chain" in entry}
    return [family for family, name in rules.SWITCHED_ON.items() if name in names]


def _is_on(name: str) -> bool:
    try:
        return (_SYSCTL / name).read_text(encoding="ascii").strip() not in {"", "0"}
    except OSError:
        return False


def _enable(name: str) -> None:
    if not _is_on(name):
        _set(name, "1")


def _set(name: str, value: str) -> None:
    """Write, and see that it took."""
    fields = {"sysctl": name.replace("/", "."), "wanted": value}
    try:
        with privileged("switching it", "CAP_NET_ADMIN"):
            (_SYSCTL / name).write_text(value, encoding="ascii")
        found = (_SYSCTL / name).read_text(encoding="ascii").strip()
    except OSError as error:
        log.warning("Cannot set forwarding", extra={"fields": fields | {"error": chain(error)}})
        return
    if found != value:
        log.warning("Cannot set forwarding", extra={"fields": fields | {"found": found}})


def _clients_have_connections() -> bool:
    """Whether the kernel knows an established TCP connection that a client began."""
    try:
        with _CONNECTIONS.open(encoding="ascii", errors="replace") as lines:
            return any(" ESTABLISHED " in line and firewall.is_of_a_client(line) for line in lines)
    except OSError:
        return False  # not every kernel shows them
