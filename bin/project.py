#!/usr/bin/env python3
"""Says where the team's project lies, and what it is made of: one home for it, for make, Ansible and workflows.

This repository's `pyproject.toml` names the project in the table `[tool.lvao]`; the environment variable
`LVAO_PROJECT` names another. The project's own `pyproject.toml` has the rest in a table of the same name.
"""

import argparse
import json
import os
import re
import sys
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

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
        build: The packages that may be built from source, on the controller.
        python: The oldest Python that the lock is for, such as 3.12; empty for the oldest that the project takes.
        requires_python: Which Python the project takes, as its `pyproject.toml` says; empty for any.
    """

    folder: Path
    group: str
    test_group: str
    dags: Path
    tests: Path
    requirements: Path
    env_file: Path
    build: tuple[str, ...]
    python: str
    requires_python: str


def settings(folder: Path) -> tuple[dict[str, object], dict[str, object], dict[str, object]]:
    """Read a `pyproject.toml`.

    Args:
        folder: Where it is.

    Returns:
        Its table `[tool.lvao]`, its dependency groups, and its table `[project]`.

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
    return content.get("tool", {}).get("lvao", {}), content.get("dependency-groups", {}), content.get("project", {})


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
    own, *_ = settings(here)
    chosen = named or os.environ.get("LVAO_PROJECT") or str(own.get("project", "."))
    folder = (here / Path(chosen).expanduser()).resolve()
    if not folder.is_dir():
        raise ProjectError(
            f"The project {folder} is not there: LVAO_PROJECT, or project in [tool.lvao], must name its folder."
        )
    table, groups, facts = settings(folder)
    defaults = {"group": "airflow", "test-group": "dag-tests", "dags": "dags", "tests": "dags/tests"}
    defaults |= {"requirements": "requirements", "env-file": ".env"}
    if unknown := table.keys() - defaults.keys() - {"project", "build", "python"}:
        raise ProjectError(
            f"{folder}/pyproject.toml has {', '.join(sorted(unknown))} in [tool.lvao], "
            f"which may hold {', '.join(defaults)}, build, python."
        )
    values = {name: table.get(name, default) for name, default in defaults.items()}
    for name, value in values.items():
        if not isinstance(value, str) or not value:
            raise ProjectError(f"{folder}/pyproject.toml has {value!r} as {name} in [tool.lvao], which must be a text.")
    build = table.get("build", [])
    if not isinstance(build, list) or not all(isinstance(name, str) and name for name in build):
        raise ProjectError(
            f"{folder}/pyproject.toml has {build!r} as build in [tool.lvao], which must be a list of packages."
        )
    python = table.get("python", "")
    if not isinstance(python, str) or not re.fullmatch(r"(3\.[0-9]+)?", python):
        raise ProjectError(
            f'{folder}/pyproject.toml has {python!r} as python in [tool.lvao], which must be a text such as "3.12".'
        )
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
        build=tuple(build),
        python=python,
        requires_python=str(facts.get("requires-python", "")),
        **{name.replace("-", "_"): folder / values[name] for name in ("dags", "tests", "requirements", "env-file")},
    )


def main() -> int:
    """Print one setting, or all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="?", choices=Project.__dataclass_fields__, help="one setting, and no JSON")
    arguments = parser.parse_args()
    try:
        found = {
            name: list(value) if isinstance(value, tuple) else str(value) for name, value in asdict(find()).items()
        }
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
