"""``postern completion bash|zsh|fish``: a script that completes commands and flags, of ``--help``'s source."""

from collections.abc import Mapping, Sequence
from typing import Final

from connectivity.settings import SettingsReader
from postern.help_text import declared_by
from postern.synopses import SYNOPSES

_BASH: Final = """\
# bash: eval "$(postern completion bash)", or the output in /etc/bash_completion.d/postern
_postern() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" command="" word
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        [[ "$word" == -* ]] && break
        case "${{command:+$command }}$word" in
            {commands}) command="${{command:+$command }}$word" ;;
            *) break ;;
        esac
    done
    case "$command" in
{cases}
    esac
    [[ ${{#COMPREPLY[@]}} -gt 0 ]] || COMPREPLY=($(compgen -f -- "$current"))
}}
complete -o filenames -F _postern postern
"""


def run(arguments: Sequence[str]) -> int:
    """Print the script for one shell.

    Raises:
        SettingsError: the words name none.
    """
    reader = SettingsReader("completion", arguments)
    words = reader.positional()
    if len(words) != 1 or words[0] not in SHELLS:
        reader.problem(f"expected one of {', '.join(SHELLS)}")
    reader.finish()
    print(SHELLS[words[0]](all_words()), end="")
    return 0


def all_words() -> dict[str, list[str]]:
    """What may follow each command: the next words of longer ones, and its flags. Of none: the first words."""
    from postern.cli import COMMANDS  # which imports us

    modules = {name: module for name, (module, _) in COMMANDS.items()}
    found: dict[str, list[str]] = {"": [*COMMANDS, "help", "version"]}
    for command in SYNOPSES:
        below = [name.rpartition(" ")[2] for name in SYNOPSES if name.rpartition(" ")[0] == command]
        ways = (way.split()[0] for way in SYNOPSES[command].usage if way != "[flags]")
        choices = [word for way in ways for word in way.strip("[]").split("|") if word.isalpha() and word.islower()]
        flags = sorted({entry.flag for entry in declared_by(command, modules) if entry.flag is not None})
        found[command] = [*dict.fromkeys([*below, *choices]), *flags, "--help"]
    return found


def bash(words: Mapping[str, Sequence[str]]) -> str:
    """For bash, by its ``complete -F``."""
    commands = "|".join(f'"{command}"' for command in words if command)
    cases = "\n".join(
        f'        "{command}") COMPREPLY=($(compgen -W "{" ".join(following)}" -- "$current")) ;;'
        for command, following in words.items()
    )
    return _BASH.format(commands=commands, cases=cases)


def zsh(words: Mapping[str, Sequence[str]]) -> str:
    """For zsh, which takes bash's function."""
    return f"#compdef postern\nautoload -U +X bashcompinit && bashcompinit\n{bash(words)}"


def fish(words: Mapping[str, Sequence[str]]) -> str:
    """For fish: one line a command, that holds while the command line begins with it and nothing longer."""
    lines = [
        "# fish: postern completion fish > ~/.config/fish/completions/postern.fish",
        "function __postern_at",
        "    set -l spoken (string match -v -- '-*' (commandline -opc)[2..])",
        '    test "$spoken" = "$argv"',
        "end",
    ]
    for command, following in words.items():
        condition = f"__postern_at {command}".rstrip()
        lines.append(f"complete -c postern -n '{condition}' -a '{' '.join(following)}'")
    return "\n".join(lines) + "\n"


SHELLS: Final = {"bash": bash, "zsh": zsh, "fish": fish}
