"""The three modes by their names, and whether one works on this host."""

import asyncio

from client.system_dns.control import DISABLED, ETC_RESOLV_CONF, DnsControlError, SystemDns
from client.system_dns.etc_resolv_conf import FileDns, ResolvConf, UntouchedDns
from client.system_dns.resolved import ResolvedDns


def make(mode: str, device: str) -> SystemDns:
    """How the host's DNS is controlled in this mode, with this TUN device."""
    if mode == ETC_RESOLV_CONF:
        return FileDns()
    return UntouchedDns() if mode == DISABLED else ResolvedDns(device)


def examine(mode: str, device: str) -> list[str]:
    """What is in the way of a mode; nothing is changed."""
    try:
        if mode == ETC_RESOLV_CONF:
            ResolvConf().check()
        elif mode != DISABLED:
            asyncio.run(ResolvedDns(device).check())
    except DnsControlError as error:
        return [str(error)]
    return []
