"""Which tables of this network namespace filter packets: nftables' by netlink, those of iptables' older kind by /proc.

Needs NET_ADMIN, as ``nft list`` does; without it nothing is found. To be called outside of a running event loop.
"""

import logging
from pathlib import Path
from typing import Final

from pyroute2 import NetlinkError
from pyroute2.nftables.main import NFTables

from connectivity.errors import chain

_FAMILIES: Final = {1: "inet", 2: "ip", 10: "ip6"}  # NFPROTO_*
_HOOKS: Final = ("prerouting", "input", "forward", "output", "postrouting", "ingress")  # NF_INET_*
_OLD: Final = {"ip": "ip_tables_names", "ip6": "ip6_tables_names"}
_OLD_FILTERS: Final = frozenset({"filter", "raw", "mangle", "security"})

_log = logging.getLogger(__name__)


def filters(proc: Path = Path("/proc/net")) -> list[str]:
    """Each chain that may drop packets of the host, as ``inet name hook``; a table of iptables without its hooks."""
    return sorted({*_nftables(), *_older(proc)})


def _nftables() -> list[str]:
    try:
        with NFTables(nfgen_family=0) as netlink:
            chains = list(netlink.get_chains())
    except (NetlinkError, OSError) as error:
        _log.debug("Cannot list nftables' chains", extra={"fields": {"error": chain(error)}})
        return []
    found = []
    for message in chains:
        hook, family = message.get_attr("NFTA_CHAIN_HOOK"), _FAMILIES.get(message["nfgen_family"])
        if family is not None and hook is not None and message.get_attr("NFTA_CHAIN_TYPE") == "filter":
            place = _hook_name(hook.get_attr("NFTA_HOOK_HOOKNUM"))
            found.append(f"{family} {message.get_attr('NFTA_CHAIN_TABLE')} {place}")
    return found


def _hook_name(number: int) -> str:
    """A kernel may have hooks that we do not know."""
    return _HOOKS[number] if 0 <= number < len(_HOOKS) else f"hook {number}"


def _older(proc: Path) -> list[str]:
    found = []
    for family, name in _OLD.items():
        try:
            tables = (proc / name).read_text(encoding="ascii").split()
        except OSError:  # the module was never needed, or the file is root's
            continue
        found += [f"{family} {table} (iptables-legacy)" for table in tables if table in _OLD_FILTERS]
    return found
