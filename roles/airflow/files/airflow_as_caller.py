#!/usr/bin/python3 -I
"""Airflow's command line: opens the files that it is given with its caller's rights, and goes to the services' sandbox.

The sandbox shows no file of the caller's, and the way there is root's, who may read and write too much. So a file to
import becomes standard input, and a file to export to standard output, before sudo or root's script begin. In the
sandbox, command_line.py gives both to Airflow.

Each release has its own: /usr/local/bin/airflow is that of the current one.
"""

import errno
import os
import stat
import sys
from pathlib import Path
from typing import NoReturn

# What takes a file: `airflow <group> import <file>`, and export.
GROUPS = ("connections", "pools", "roles", "users", "variables")
# Their options that take a value: the file is what is neither an option nor such a value.
WITH_VALUE = ("-a", "--action-on-existing-key", "--file-format", "--format", "-o", "--output", "--serialization-format")
# Names of standard input and standard output, which the caller has opened already.
STANDARD = {"import": ("-", "/dev/stdin"), "export": ("-", "/dev/stdout")}
# In sudoers by this path, through the link to the current release.
SANDBOXED = Path("current/bin/airflow-sandboxed")


def takes_value(option: str) -> bool:
    """Tell whether the argument after an option is its value; long options may be shortened."""
    return option in WITH_VALUE or (option.startswith("--") and any(name.startswith(option) for name in WITH_VALUE))


def file_argument(arguments: list[str]) -> int | None:
    """Find the file in a command line of Airflow's.

    Args:
        arguments: what follows `airflow`.

    Returns:
        its place, or None if there is none.
    """
    group, action = (arguments + ["", ""])[:2]
    if group not in GROUPS or action not in STANDARD:
        return None
    is_value = False
    for place, argument in enumerate(arguments[2:], 2):
        if is_value:
            is_value = False
        elif argument == "--":
            return place + 1 if place + 1 < len(arguments) else None
        elif argument.startswith("-") and argument != "-":
            is_value = takes_value(argument)
        else:
            return place
    return None


def attach(action: str, path: str) -> str:
    """Make a file standard input or standard output.

    Args:
        action: `import` or `export`.
        path: the file.

    Returns:
        what the sandbox is told instead: where it finds the file, and its name, whose end tells its format.

    Raises:
        OSError: the caller may not open it, or it is none.
    """
    standard = STANDARD[action][1]
    if path in STANDARD[action]:
        return standard
    if action == "import":
        descriptor = os.open(path, os.O_RDONLY)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    else:
        # Connections have passwords in them.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(descriptor, 0 if action == "import" else 1)
    return f"{standard}/{Path(path).name}"


def main() -> NoReturn:
    """Go to the sandbox."""
    arguments = sys.argv[1:]
    if (place := file_argument(arguments)) is not None:
        path = arguments[place]
        try:
            arguments[place] = attach(arguments[1], path)
        except OSError as error:
            sys.exit(f"airflow: {path}: {error.strerror}")
    release = Path(__file__).resolve().parents[1]
    command = [str(release / "bin" / SANDBOXED.name), *arguments]
    if os.geteuid() != 0:
        command = ["sudo", "--", str(release.parents[1] / SANDBOXED), *arguments]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
