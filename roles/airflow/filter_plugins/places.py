"""Filters that check the folders that a site gives to tasks, whose owner and mode the role sets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

PATH = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+")
# All of the owner's, and for others nothing that writes.
MODE = re.compile(r"0?7[0-7][0145]")
# The system's, with all that is below, or what a unit does not see.
SYSTEM = (
    "bin",
    "boot",
    "dev",
    "etc",
    "home",
    "lib",
    "lib32",
    "lib64",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
)
# A folder of one's own is below these, but these are not.
SHARED = {"/media", "/mnt", "/opt", "/srv", *(f"/var/{name}" for name in ("cache", "lib", "local", "opt", "spool"))}
OF_OTHERS = re.compile(r"/var/(cache|lib|spool)/(apt|caddy|cron|dpkg|postgresql|private|swift|systemd|lvao-[^/]*)(/|$)")
# Each unit has its own there.
PRIVATE = ("/tmp", "/var/tmp")  # noqa: S108 - no file is made


def _is_below(path: PurePosixPath, other: PurePosixPath) -> bool:
    return path == other or other in path.parents


def _fault(path: str) -> str:
    """Say whether a path may not be a folder of tasks."""
    place = PurePosixPath(path)
    is_shared = path in SHARED
    is_system = place.parts[1:2] and place.parts[1] in SYSTEM
    # Of /var, what is below one of its folders for programs.
    is_odd = place.parts[1:2] == ("var",) and not any(PurePosixPath(one) in place.parents for one in SHARED)
    if not PATH.fullmatch(path) or is_shared or is_system or is_odd or OF_OTHERS.match(path):
        return "it must be the path of a folder of its own, such as /srv/lvao, and no folder of the system"
    return ""


def work_directory_faults(
    directories: Iterable[Mapping[str, Any]], temporary: str, taken: Mapping[str, str]
) -> list[str]:
    """Say what is wrong with the folders that tasks get.

    Args:
        directories: The variable `airflow_work_directories`.
        temporary: The variable `airflow_temporary_directory`.
        taken: Folders that the role has for something else, by the names of their variables.

    Returns:
        A sentence for each fault.
    """
    named = [("airflow_work_directories", str(one.get("path") or "")) for one in directories]
    if temporary not in PRIVATE:
        named.append(("airflow_temporary_directory", temporary))
    faults = [f"{name} holds '{path}': {fault}." for name, path in named if (fault := _fault(path))]
    for one in directories:
        if not MODE.fullmatch(mode := str(one.get("mode", "0750"))):
            faults.append(
                f"airflow_work_directories holds {one.get('path')} with the mode {mode}: it must be octal digits in "
                "quotes, such as '0750', by which others do not write."
            )
    others = [*named, *taken.items()]
    for place, (name, path) in enumerate(named):
        for other_name, other in [*named[:place], *others[len(named) :]]:
            one, two = PurePosixPath(path), PurePosixPath(other)
            # In a folder of theirs, tasks could leave a link for root to follow.
            if _is_below(one, two) or _is_below(two, one):
                faults.append(f"{name} holds {path}, and {other_name} {other}: neither may hold the other.")
    return faults


def work_directories(directories: Iterable[Mapping[str, Any]], temporary: str) -> list[dict[str, str]]:
    """List the folders to make for tasks.

    Args:
        directories: The variable `airflow_work_directories`.
        temporary: The variable `airflow_temporary_directory`.

    Returns:
        The path and the mode of each.
    """
    listed = [{"path": one["path"], "mode": str(one.get("mode", "0750"))} for one in directories]
    return listed + ([] if temporary in PRIVATE else [{"path": temporary, "mode": "0700"}])


class FilterModule:
    """Ansible's way to find the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Give each filter's name and function.

        Returns:
            Them.
        """
        return {"work_directories": work_directories, "work_directory_faults": work_directory_faults}
