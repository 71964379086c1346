"""``postern SERVICE [flags]``: finds the service, sets logging up, turns errors into one line and an exit code."""

import gc
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from connectivity.errors import FatalError, chain
from connectivity.io.journal import is_journal, marked
from connectivity.printable import printable
from connectivity.settings import HelpRequested, SettingsError

log = logging.getLogger("postern")

# command -> (module holding ``run(arguments) -> int``, what it is)
COMMANDS: Final = {
    "relay": ("relay.command", "the TURN relay"),
    "gateway": ("gateway.command", "the gateway"),
    "client": ("client.command", "the headless client"),
    "portal": ("portal.command", "the control server"),
    "demo": ("lab.demo", "the whole stack in network namespaces, measured"),
    "status": ("postern.status", "the services that run on this machine"),
    "doctor": ("postern.doctor", "what this host lacks for each of them"),
    "bench": ("bench.command", "comparisons side by side"),
    "completion": ("postern.completion", "what makes bash, zsh or fish complete all this"),
    "man": ("postern.manual", "manual pages of all this"),
}

_MORE: Final = "\n  postern help COMMAND, postern version"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, the process's own if none is given. Exit codes: 0 done, 1 it failed, 2 it was called wrongly."""
    if arguments is None:
        return _run_process(sys.argv[1:])
    return _run_heard(arguments)


def _run_process(arguments: Sequence[str]) -> int:
    """The same without looking for garbage where there is none: among what is imported, and at the end.

    That would take a sixth of a service's start and most of its exit, for which whoever replaces it waits.
    """
    gc.disable()  # until ``_run`` has imported the command
    try:
        return _run_heard(arguments)
    finally:
        gc.freeze()


def _run_heard(arguments: Sequence[str]) -> int:
    try:
        return _run(list(arguments))
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(words: list[str]) -> int:
    match words:
        case ["version" | "--version" | "-V"] | [_, "--version"]:
            print(f"postern {version('postern')}")
            return 0
        case ["help", command]:
            words = [command, "--help"]
        case [] | ["help" | "-h" | "--help"]:
            rows = [f"  postern {name:10} {text}" for name, (_, text) in COMMANDS.items()]
            print("usage: postern COMMAND [flags]", *rows, _MORE, sep="\n", file=sys.stdout if words else sys.stderr)
            return 0 if words else 2
        case _:
            pass
    command = words[0]
    if command not in COMMANDS:
        print(f"postern: {command!r} is not a command: expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    _heed_interrupts()
    try:
        module = importlib.import_module(COMMANDS[command][0])
        if not gc.isenabled():
            gc.freeze()
            gc.enable()
        return int(module.run(words[1:]))
    except HelpRequested as answer:
        print(_help(words, answer))
        return 0
    except SettingsError as error:
        return _failed(command, str(error), 2)
    except BrokenPipeError:
        raise
    except (FatalError, OSError) as error:
        return _failed(command, chain(error), 1)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # outermost frame: a defect is one line too, and its traceback for who asks
        log.debug("Traceback of a defect", exc_info=error)
        return _failed(command, f"{type(error).__name__}: {chain(error)} (RUST_LOG=debug shows where)", 1)


def _help(words: Sequence[str], answer: HelpRequested) -> str:
    """What the command declared, as people read it, of the longest command that the words begin with."""
    from postern import help_text
    from postern.synopses import SYNOPSES

    spoken = [word for word in words if not word.startswith("-")]
    known = [" ".join(spoken[:count]) for count in range(len(spoken), 0, -1)]
    command = next((name for name in known if name in SYNOPSES), None)
    return str(answer) if command is None else help_text.render(command, answer.declared)


def _heed_interrupts() -> None:
    """Ctrl-C ends a command also where it was started with SIGINT ignored: by ``nohup``, or by ``&`` in a script.

    What it starts gets the default back, too.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _failed(command: str, reason: str, code: int) -> int:
    text = f"postern {command}: {printable(reason)}"
    print(marked(text, logging.ERROR) if is_journal(sys.stderr) else text, file=sys.stderr)
    return code
