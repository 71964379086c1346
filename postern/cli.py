"""``postern SERVICE [flags]``: finds the service, sets logging up, turns errors into one line and an exit code."""

import importlib
import sys
from collections.abc import Sequence
from typing import Final

from connectivity.errors import FatalError, chain
from connectivity.settings import HelpRequested, SettingsError

# command -> (module holding ``run(arguments) -> int``, what it is)
COMMANDS: Final = {
    "relay": ("relay.command", "the TURN relay"),
    "gateway": ("gateway.command", "the gateway"),
    "client": ("client.command", "the headless client"),
    "portal": ("portal.command", "the control server"),
    "demo": ("lab.demo", "the whole stack in network namespaces, measured"),
    "bench": ("bench.command", "comparisons side by side"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 it failed, 2 it was called wrongly."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in {"-h", "--help"} or words[0] not in COMMANDS:
        wanted = bool(words) and words[0] in {"-h", "--help"}
        rows = [f"  postern {name:8} {text}" for name, (_, text) in COMMANDS.items()]
        print("usage: postern COMMAND [flags]", *rows, sep="\n", file=sys.stdout if wanted else sys.stderr)
        return 0 if wanted else 2
    module = importlib.import_module(COMMANDS[words[0]][0])
    try:
        return int(module.run(words[1:]))
    except HelpRequested as help_text:
        print(help_text)
        return 0
    except SettingsError as error:
        print(f"postern {words[0]}: {error}", file=sys.stderr)
        return 2
    except FatalError as error:
        print(f"postern {words[0]}: {chain(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
