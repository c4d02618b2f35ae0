"""Find the file in a command line of Airflow's, and print which of its arguments that is, counted from 1.

Usage, as the caller, by Debian's Python: file_argument.py <arguments of airflow>
"""

import sys

# What takes a file: `airflow <group> import <file>`, and export.
GROUPS = ("connections", "pools", "roles", "users", "variables")
# Their options that take a value: the file is what is neither an option nor such a value.
WITH_VALUE = ("-a", "--action-on-existing-key", "--file-format", "--format", "-o", "--output", "--serialization-format")


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
    group, action = [*arguments, "", ""][:2]
    if group not in GROUPS or action not in {"import", "export"}:
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


if __name__ == "__main__":
    place = file_argument(sys.argv[1:])
    print("" if place is None else place + 1)
