#!/usr/bin/env python3
"""Says where the team's project lies, and what it is made of: one home for it, for make, Ansible and workflows.

This repository's `pyproject.toml` names the project in the table `[tool.lvao]`; the environment variable
`LVAO_PROJECT` names another. The project's own `pyproject.toml` has the rest in a table of the same name.
"""

import argparse
import json
import os
import sys
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePath

HERE = Path(__file__).resolve().parents[1]


class ProjectError(Exception):
    """The project cannot be used; the message says why, and what would be right."""


@dataclass(frozen=True)
class Project:
    """The team's project.

    Attributes:
        folder: Where its `pyproject.toml` is.
        group: The dependency group that the hosts install.
        test_group: The dependency group that the tests of its DAGs need beside it.
        dags: Folder of the DAGs.
        tests: Folder of their tests, which may be missing.
        requirements: Folder of the lock files of both groups, `airflow.txt` and `dag-tests.txt`.
        env_file: Values of environment variables for the developer's machine, which may be missing.
        release_folders: Folders that a release carries beside the DAGs, by their path in the project.
        release_python_path: Which of them go on Python's path.
        release_env: Environment variables that name a folder of the release.
        release_include: What a release carries although Git ignores it.
        release_build_command: The command that makes what the release carries.
    """

    folder: Path
    group: str
    test_group: str
    dags: Path
    tests: Path
    requirements: Path
    env_file: Path
    release_folders: list[str] = field(default_factory=list)
    release_python_path: list[str] = field(default_factory=list)
    release_env: dict[str, str] = field(default_factory=dict)
    release_include: list[str] = field(default_factory=list)
    release_build_command: list[str] = field(default_factory=list)

    def place(self, path: str) -> Path:
        """Find on this machine what has a path in a release."""
        first, *rest = PurePath(path).parts or ("",)
        return self.dags.joinpath(*rest) if first == "dags" else self.folder / path

    def release_environment(self) -> dict[str, str]:
        """Name on this machine what a host names of a release in the environment."""
        return {
            "PYTHONPATH": os.pathsep.join(str(self.place(path)) for path in self.release_python_path),
            "LVAO_RELEASE": str(self.folder),
            **{name: str(self.place(path)) for name, path in self.release_env.items()},
        }


# The role `airflow` has variables of these names, and checks what they hold.
OF_RELEASES = [field.name for field in fields(Project) if field.name.startswith("release_")]


def settings(folder: Path) -> tuple[dict[str, object], dict[str, object]]:
    """Read a `pyproject.toml`.

    Args:
        folder: Where it is.

    Returns:
        Its table `[tool.lvao]`, and its dependency groups.

    Raises:
        ProjectError: It is missing, or no TOML.
    """
    path = folder / "pyproject.toml"
    try:
        content = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ProjectError(f"{path} is missing: a project has one, with the packages of its DAGs.") from None
    except (OSError, ValueError) as error:
        raise ProjectError(f"{path} cannot be read: {error}") from None
    return content.get("tool", {}).get("lvao", {}), content.get("dependency-groups", {})


def of_releases(table: dict[str, object], folder: Path) -> dict[str, list[str] | dict[str, str]]:
    """Take what a release carries beside the DAGs from a table.

    Args:
        table: `[tool.lvao]` of a project.
        folder: Where the project is.

    Returns:
        The values by the names of the attributes, without those that the table lacks.

    Raises:
        ProjectError: One is not of the kind that it must be.
    """
    found = {}
    for name in OF_RELEASES:
        key, kind = name.replace("_", "-"), dict if name == "release_env" else list
        if (value := table.get(key)) is None:
            continue
        texts = value.values() if isinstance(value, dict) else value
        if not isinstance(value, kind) or not all(isinstance(text, str) and text for text in texts):
            wanted = f"a {'table' if kind is dict else 'list'} of texts"
            raise ProjectError(
                f"{folder}/pyproject.toml has {value!r} as {key} in [tool.lvao], which must be {wanted}."
            )
        found[name] = value
    for name in found.get("release_folders", []):
        if not (folder / name).is_dir():
            raise ProjectError(f"{folder / name} is not there: release-folders in [tool.lvao] must name folders.")
    return found


def find(here: Path = HERE, named: str | None = None) -> Project:
    """Find the team's project.

    Args:
        here: This repository.
        named: The project's folder; that of the environment variable by default, and then that of the table.

    Returns:
        It.

    Raises:
        ProjectError: It is missing, or something that it must have.
    """
    own, _ = settings(here)
    chosen = named or os.environ.get("LVAO_PROJECT") or str(own.get("project", "."))
    folder = (here / Path(chosen).expanduser()).resolve()
    if not folder.is_dir():
        raise ProjectError(
            f"The project {folder} is not there: LVAO_PROJECT, or project in [tool.lvao], must name its folder."
        )
    table, groups = settings(folder)
    defaults = {"group": "airflow", "test-group": "dag-tests", "dags": "dags", "tests": "dags/tests"}
    defaults |= {"requirements": "requirements", "env-file": ".env"}
    keys = [*defaults, *(name.replace("_", "-") for name in OF_RELEASES)]
    if unknown := table.keys() - {*keys, "project"}:
        raise ProjectError(
            f"{folder}/pyproject.toml has {', '.join(sorted(unknown))} in [tool.lvao], "
            f"which may hold {', '.join(keys)}."
        )
    values = {name: table.get(name, default) for name, default in defaults.items()}
    for name, value in values.items():
        if not isinstance(value, str) or not value:
            raise ProjectError(f"{folder}/pyproject.toml has {value!r} as {name} in [tool.lvao], which must be a text.")
    carried = of_releases(table, folder)
    if values["group"] not in groups:
        raise ProjectError(
            f"{folder}/pyproject.toml has no dependency group {values['group']}: [dependency-groups] must have it, "
            f"or group in [tool.lvao] must name another ({', '.join(groups) or 'there is none'})."
        )
    if not (folder / values["dags"]).is_dir():
        raise ProjectError(
            f"{folder / values['dags']} is not there: dags in [tool.lvao] must name the folder of the DAGs."
        )
    return Project(
        folder=folder,
        group=values["group"],
        test_group=values["test-group"],
        **carried,
        **{name.replace("-", "_"): folder / values[name] for name in ("dags", "tests", "requirements", "env-file")},
    )


def main() -> int:
    """Print one setting, or all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="?", choices=Project.__dataclass_fields__, help="one setting, and no JSON")
    arguments = parser.parse_args()
    try:
        found = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(find()).items()}
    except ProjectError as error:
        print(f"project: {error}", file=sys.stderr)
        return 1
    if not arguments.name:
        print(json.dumps(found))
        return 0
    value = found[arguments.name]
    print(*([value] if isinstance(value, str) else value), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
