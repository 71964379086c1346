"""``postern bench KIND``: which measurement, and nothing else; the kinds share variants, network and measuring."""

import importlib
from typing import Final

from connectivity.settings import HelpRequested, SettingsError

# kind -> (module holding ``run(arguments) -> int``, what it is)
KINDS: Final = {
    "stack": ("bench.stack", "the whole matrix, judged by UDP buffer errors: what CI runs"),
    "relay": ("bench.relay", "coturn, our relay in user space and by XDP, in turn"),
    "siege": ("bench.siege", "floods of every listener, and whether others are served meanwhile"),
    "faults": ("bench.faults", "how long nothing comes back when a part dies or the client moves"),
    "scale": ("bench.scale", "what a packet and a grant cost a gateway with 2, 200 and 1,000 clients"),
    "tunnel": ("bench.tunnel", "our tunnel beside plain veth, wireguard-go and upstream's programs"),
}


def run(arguments: list[str]) -> int:
    """Run one kind of benchmark."""
    rows = [f"  postern bench {name:8} {text}" for name, (_, text) in KINDS.items()]
    if arguments and arguments[0] in {"-h", "--help"}:
        raise HelpRequested("\n".join(["usage: postern bench KIND [flags]", *rows]))
    kind = arguments[0] if arguments else ""
    if kind not in KINDS:
        named = f"{kind!r} is no kind of benchmark" if kind else "the kind of benchmark is missing"
        raise SettingsError([f"{named}: expected one of {', '.join(KINDS)}"])
    return int(importlib.import_module(KINDS[kind][0]).run(arguments[1:]))
