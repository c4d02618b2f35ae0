"""A filter that checks what a release is to carry beside its DAGs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath

# A path that units and shell scripts take as it is.
PATH = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)
NAME = re.compile("[A-Z_][A-Z0-9_]*")
# What a release has of its own at its top.
OWN = ("base", "bin", "dags", "etc", "libexec", "lock", "release.json", "systemd", "venv")
# What the role sets in the environment.
SET = re.compile("AIRFLOW.*|HOME|LVAO_.*|PATH|PYTHONPATH")


def is_carried(path: str, parts: Sequence[str]) -> bool:
    """Tell whether a path of the project is one that a release carries, or is below one."""
    return bool(PATH.fullmatch(path)) and any(PurePath(path).is_relative_to(part) for part in parts)


def folder_faults(folders: Sequence[str], project: Path) -> Iterator[str]:
    """Yield what is wrong with the folders beside the DAGs."""
    for name in folders:
        other = next((other for other in folders if other != name and PurePath(name).is_relative_to(other)), None)
        if not PATH.fullmatch(name):
            yield f"holds '{name}', which must be a path of letters, digits, dots, hyphens and underscores in {project}"
        elif PurePath(name).parts[0] in OWN:
            yield f"holds {name}, and a release has its own {PurePath(name).parts[0]}: give the folder another name"
        elif not (project / name).is_dir():
            yield f"holds {name}, and {project / name} is not a folder: name one that is there"
        elif not (real := (project / name).resolve()).is_relative_to(project.resolve()):
            yield f"holds {name}, a link to {real}, which is not in {project}: put the folder there"
        elif other:
            yield f"holds {name}, which {other} brings along: leave it out"


def release_faults(carried: Mapping, project: str, taken: Sequence[str]) -> list[str]:
    """Say what is wrong with what a release is to carry.

    Args:
        carried: The values of the variables airflow_release_…, by the end of their names.
        project: The folder that they are about.
        taken: The names in `airflow_env`.

    Returns:
        A line for each fault, with the name of the variable.
    """
    folders, environment = carried["folders"], carried["env"]
    parts = ["dags", *folders]
    choice = f"dags, or be below one of these: {', '.join(folders)}" if folders else "dags, or airflow_release_folders"
    wanted = f"which must be in {choice}"
    faults = [f"airflow_release_folders {fault}" for fault in folder_faults(folders, Path(project))]
    faults += [
        f"airflow_release_python_path holds '{path}', {wanted}; '.' is the release itself"
        for path in carried["python_path"]
        if path != "." and not is_carried(path, parts)
    ]
    faults += [
        f"airflow_release_include holds '{path}', {wanted}"
        for path in carried["include"]
        if not is_carried(path, parts)
    ]
    for name, path in environment.items():
        if not NAME.fullmatch(name):
            faults.append(f"airflow_release_env holds {name}, which must have capitals, digits and underscores")
        elif SET.fullmatch(name):
            faults.append(f"airflow_release_env holds {name}, which the role sets: leave it out")
        elif name in taken:
            faults.append(f"airflow_release_env and airflow_env both hold {name}: remove it from one of them")
        elif path != "." and not is_carried(str(path), parts):
            faults.append(f"airflow_release_env holds '{path}' as {name}, {wanted}; '.' is the release itself")
    return faults


class FilterModule:
    """Ansible's way to find the filters."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        """Give each filter's name and function.

        Returns:
            Them.
        """
        return {"release_faults": release_faults}
