#!/usr/bin/env python3
"""Runs a command with what a host has in its environment: the project's folders, and the programs of its packages.

Usage: bin/with_release.py dbt build
"""

import os
import sys
from collections.abc import Mapping

from project import HERE, Project, ProjectError, find


def environment(project: Project, caller: Mapping[str, str]) -> dict[str, str]:
    """Make the environment of the command.

    Args:
        project: The project.
        caller: The environment of this program.

    Returns:
        The environment.
    """
    named = project.release_environment()
    first = {"PATH": str(HERE / ".venv-airflow/bin"), "PYTHONPATH": named.pop("PYTHONPATH")}
    paths = {name: os.pathsep.join(filter(None, [path, caller.get(name)])) for name, path in first.items()}
    return {**caller, **named, **{name: path for name, path in paths.items() if path}}


def main(command: list[str]) -> int:
    """Become the command.

    Args:
        command: It, with its arguments.

    Returns:
        The exit status, where that fails.
    """
    if not command:
        print(__doc__.splitlines()[-1], file=sys.stderr)
        return 2
    try:
        env = environment(find(), os.environ)
        # Where it looks for a program.
        os.environ["PATH"] = env["PATH"]
        os.execvpe(command[0], command, env)  # noqa: S606 - the caller's
    except (ProjectError, OSError) as error:
        print(f"with_release: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
