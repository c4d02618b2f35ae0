"""Refuse a command of Airflow's that the site does not allow the group of the command `airflow`.

Usage, as root, by Debian's Python: allowed.py <arguments of airflow>
"""

import json
import re
import sys
from pathlib import Path

LIST = Path(__file__).parents[1] / "etc/command_allowed.json"
# Options that run code where the secrets are, write files or show secrets, of commands that are harmless without.
FOR_ROOT = {
    "connections list": ("--show-values",),
    "dags list": ("-l", "--local"),
    "dags list-import-errors": ("-l", "--local"),
    "dags show": ("-s", "--save", "--imgcat"),
    "dags show-dependencies": ("-s", "--save", "--imgcat"),
    "dags test": ("-f", "--dagfile-path", "--save-dagrun", "--imgcat-dagrun"),
    "tasks clear": ("-R", "--dag-regex"),
    "tasks test": ("-m", "--post-mortem", "--env-vars"),
    "variables list": ("--show-values",),
}


def option_for_root(command: str, arguments: list[str]) -> str | None:
    """Find an option that the command may have from root alone.

    argparse takes long options shortened, and short ones together. The letters of a value count too, as in `-oplain`:
    better one refusal too many.

    Args:
        command: its group and its name.
        arguments: what follows it.

    Returns:
        the option, or None if there is none.
    """
    for argument in arguments:
        for option in FOR_ROOT.get(command, ()):
            given = argument.partition("=")[0]
            if option.startswith("--"):
                found = len(given) > len("--") and option.startswith(given)
            else:
                found = re.match("-[^-]", given) and option[1] in given
            if found:
                return option
    return None


def refusal(arguments: list[str], allowed: list[str]) -> str | None:
    """Tell why the group may not run a command.

    Args:
        arguments: what follows `airflow`.
        allowed: the site's commands: a group of Airflow's alone, or with a command's name.

    Returns:
        what to tell the caller, or None if they may.
    """
    # Elsewhere, what looks like an option may be a value.
    if re.fullmatch("([a-z][a-z-]* ){0,2}(-h|--help)", " ".join(arguments or ["-h"])):
        return None
    command = " ".join(arguments[:2])
    if command not in allowed and arguments[0] not in allowed:
        what = f"`airflow {command}`"
    elif option := option_for_root(command, arguments[2:]):
        what = f"the option {option} of `airflow {command}`"
    else:
        return None
    return (
        f"airflow: {what} is for root alone: use `sudo airflow`, if you may. "
        f"Your group may run what airflow_command_allowed lists, which a deploy changes: {', '.join(allowed)}."
    )


if __name__ == "__main__":
    sys.exit(refusal(sys.argv[1:], json.loads(LIST.read_text())))
