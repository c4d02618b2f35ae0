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
# What `make test-dags` looks for in the DAGs, and what comes of a DAG that lacks it where the project does not say.
PROMISES = {"imports": "error", "tasks": "error"} | dict.fromkeys(
    ("deprecations", "description", "owner", "retries", "start-date", "tags"), "warning"
)


@dataclass(frozen=True)
class Checks:
    """What the DAGs of a project have to have.

    Attributes:
        promises: What comes of a DAG that breaks one: `error`, `warning` or `off`.
        warn: Shell patterns of paths below the DAGs folder, of files whose errors at import are warnings.
    """

    promises: dict[str, str]
    warn: tuple[str, ...]


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
        test_postgresql: The environment variable that names a throw-away PostgreSQL to the tests; empty for none.
        checks: What its DAGs have to have.
    """

    folder: Path
    group: str
    test_group: str
    dags: Path
    tests: Path
    requirements: Path
    env_file: Path
    test_postgresql: str
    checks: Checks


def checks_of(table: object, path: Path) -> Checks:
    """Read what the DAGs have to have.

    Args:
        table: `[tool.lvao.checks]`.
        path: The `pyproject.toml` that holds it.

    Returns:
        It, with the defaults.

    Raises:
        ProjectError: Something in the table cannot be used.
    """
    if not isinstance(table, dict):
        raise ProjectError(f"{path} has {table!r} as checks in [tool.lvao], which must be a table: [tool.lvao.checks].")
    warn = table.get("warn", [])
    if not isinstance(warn, list) or not all(isinstance(pattern, str) and pattern for pattern in warn):
        raise ProjectError(f"{path} has {warn!r} as warn in [tool.lvao.checks], which must be a list of file patterns.")
    given = {name: value for name, value in table.items() if name != "warn"}
    for name, value in given.items():
        if name not in PROMISES:
            raise ProjectError(f"{path} has {name} in [tool.lvao.checks], which may hold {', '.join(PROMISES)}, warn.")
        if value not in ("error", "warning", "off"):
            raise ProjectError(
                f"{path} has {value!r} as {name} in [tool.lvao.checks], which must be error, warning or off."
            )
    return Checks(PROMISES | given, tuple(warn))


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
    if unknown := table.keys() - defaults.keys() - {"project", "checks", "test-postgresql"}:
        raise ProjectError(
            f"{folder}/pyproject.toml has {', '.join(sorted(unknown))} in [tool.lvao], "
            f"which may hold {', '.join(defaults)}, checks, test-postgresql."
        )
    values = {name: table.get(name, default) for name, default in defaults.items()}
    for name, value in values.items():
        if not isinstance(value, str) or not value:
            raise ProjectError(f"{folder}/pyproject.toml has {value!r} as {name} in [tool.lvao], which must be a text.")
    test_postgresql = table.get("test-postgresql", "")
    if not isinstance(test_postgresql, str) or not re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)?", test_postgresql):
        raise ProjectError(
            f"{folder}/pyproject.toml has {test_postgresql!r} as test-postgresql in [tool.lvao], which must be the "
            "name of the environment variable that tells the tests its address, such as DATABASE_URL."
        )
    checks = checks_of(table.get("checks", {}), folder / "pyproject.toml")
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
        test_postgresql=test_postgresql,
        checks=checks,
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
    print(found[arguments.name] if arguments.name else json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
