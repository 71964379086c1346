"""What ``--help``, manual pages and completions say of each command beside its settings."""

from dataclasses import dataclass
from typing import Final

from bench.command import KINDS


@dataclass(frozen=True, slots=True)
class Synopsis:
    """``usage`` behind the command's name, one way each; ``first`` are flags or variables that most people need."""

    about: str
    usage: tuple[str, ...] = ("[flags]",)
    first: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


_STATUS: Final = Synopsis("What a running one tells of itself.", first=("--json", "--watch"))
_LOG: Final = Synopsis("Gives a running one another log filter.", ("FILTER",))

SYNOPSES: Final[dict[str, Synopsis]] = {
    "relay": Synopsis(
        "The TURN relay: alone with a file, or under a portal.",
        ("--config relay.yaml", "TOKEN-FILE [NAME] --api-url URL", "--check relay.yaml"),
        ("--config", "--check", "FIREZONE_TOKEN", "--api-url", "--public-ip4-addr", "--public-ip6-addr",
         "--ebpf-interfaces", "--ebpf", "--log"),
        (
            "With --config the file says what is served and to whom: then no token, and nothing that it has a key for.",
            "TOKEN-FILE is the path of a file with the token; a token itself would stand in the process list.",
            "--ebpf-interfaces falls back where XDP does not work, --ebpf-offloading is a demand: one of the two.",
        ),
    ),
    "relay admin": Synopsis("Talks to a running relay.", ("list", "show PORT", "end PORT", "offload", "log FILTER")),
    "relay import-coturn": Synopsis(
        "Makes a relay.yaml of coturn's turnserver.conf.",
        ("turnserver.conf [flags]",),
        ("-o",),
    ),
    "gateway": Synopsis(
        "The gateway: lets clients into the network that it stands in.",
        ("[TOKEN-FILE] [flags]",),
        ("FIREZONE_TOKEN", "--api-url", "--firezone-name", "--firezone-id", "--forward", "--log"),
        (
            "The token comes from TOKEN-FILE, a path, or from FIREZONE_TOKEN: one of the two.",
            "Needs NET_ADMIN and /dev/net/tun: postern doctor gateway says what is missing.",
        ),
    ),
    "gateway status": _STATUS,
    "gateway log": _LOG,
    "client": Synopsis(
        "The headless client: brings this host to the resources that it may reach.",
        ("[flags]", "--check", "--exit"),
        ("--token-path", "--api-url", "--firezone-name", "--firezone-id", "--dns-control", "--log"),
        (
            "The token comes from FIREZONE_TOKEN or the file of --token-path; the variable wins.",
            "--check ends before the portal is asked, --exit once there is a tunnel: one of the two.",
            "Needs NET_ADMIN and /dev/net/tun: postern doctor client says what is missing.",
        ),
    ),
    "client status": _STATUS,
    "client log": _LOG,
    "portal": Synopsis(
        "The control server: says who may reach what, by one YAML file.",
        ("--config portal.yaml [flags]", "--check portal.yaml"),
        ("--config", "--check", "--state", "--log"),
        ("With --check nothing is served, and --config means nothing.",),
    ),
    "portal status": _STATUS,
    "portal log": _LOG,
    "status": Synopsis("The services that run on this machine, in one view.", first=("--watch", "--json")),
    "doctor": Synopsis(
        "What this host lacks, each with its remedy; changes nothing.",
        ("[relay|gateway|client] [flags]",),
        ("--json", "--bundle"),
    ),
    "demo": Synopsis(
        "The whole stack in network namespaces, measured and gone again. As root.",
        notes=("--clean removes what --keep left, and does nothing else.",),
    ),
    "bench": Synopsis("Comparisons side by side. As root.", ("|".join(KINDS) + " [flags]",)),
    **{f"bench {kind}": Synopsis(f"{text[0].upper()}{text[1:]}.") for kind, (_, text) in KINDS.items()},
    "completion": Synopsis("Prints what makes a shell complete commands and flags.", ("bash|zsh|fish",)),
    "man": Synopsis("Writes the manual pages of all commands into a folder.", ("FOLDER",)),
}  # fmt: skip
