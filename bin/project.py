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
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePath

HERE = Path(__file__).resolve().parents[1]
# What `make test-dags` looks for in the DAGs, and what comes of a DAG that lacks it where the project does not say.
PROMISES = {"imports": "error", "tasks": "error"} | dict.fromkeys(
    ("deprecations", "description", "owner", "retries", "start-date", "tags"), "warning"
)


class ProjectError(Exception):
    """The project cannot be used; the message says why, and what would be right."""


@dataclass(frozen=True)
class Checks:
    """What the DAGs of a project have to have.

    Attributes:
        promises: What comes of a DAG that breaks one: `error`, `warning` or `off`.
        warn: Shell patterns of paths below the DAGs folder, of files whose errors at import are warnings.
    """

    promises: dict[str, str]
    warn: tuple[str, ...]


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
        requires_python: Which Python the project takes, as its `pyproject.toml` says; empty for any.
        python: The oldest Python that the lock is for, such as 3.12; empty for the oldest that the project takes.
        build: The packages that may be built from source, on the controller.
        test_postgresql: The environment variable that names a throw-away PostgreSQL to the tests; empty for none.
        checks: What its DAGs have to have.
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
    requires_python: str = ""
    python: str = ""
    build: tuple[str, ...] = ()
    test_postgresql: str = ""
    checks: Checks = field(default_factory=lambda: Checks(PROMISES, ()))
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


# Paths in the project, and texts, with their defaults.
PATHS = {"dags": "dags", "tests": "dags/tests", "requirements": "requirements", "env-file": ".env"}
TEXTS = {"group": "airflow", "test-group": "dag-tests"} | PATHS
# Texts that may be empty: what each has to look like, and is.
NAMES = {
    "python": (r"(3\.[0-9]+)?", 'a text such as "3.12"'),
    "test-postgresql": (
        r"([A-Za-z_][A-Za-z0-9_]*)?",
        "the name of the environment variable that tells the tests its address, such as DATABASE_URL",
    ),
}
# The role `airflow` has variables of these names, and checks what they hold.
OF_RELEASES = [one.name for one in fields(Project) if one.name.startswith("release_")]
KEYS = [*TEXTS, *NAMES, "build", "checks", *(name.replace("_", "-") for name in OF_RELEASES)]


def read(folder: Path) -> dict[str, object]:
    """Read a `pyproject.toml`.

    Args:
        folder: Where it is.

    Returns:
        What it holds.

    Raises:
        ProjectError: It is missing, or no TOML.
    """
    path = folder / "pyproject.toml"
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ProjectError(f"{path} is missing: a project has one, with the packages of its DAGs.") from None
    except (OSError, ValueError) as error:
        raise ProjectError(f"{path} cannot be read: {error}") from None


def wrong(folder: Path, value: object, key: str, wanted: str, table: str = "[tool.lvao]") -> ProjectError:
    """Say what is wrong with a value."""
    return ProjectError(f"{folder}/pyproject.toml has {value!r} as {key} in {table}, which must be {wanted}.")


def is_texts(value: object, kind: type) -> bool:
    """Say whether a value is a list, or a table, of texts that are not empty."""
    texts = value.values() if isinstance(value, dict) else value
    return isinstance(value, kind) and all(isinstance(text, str) and text for text in texts)


def checks_of(table: object, folder: Path) -> Checks:
    """Read what the DAGs have to have.

    Args:
        table: `[tool.lvao.checks]`.
        folder: Where the project is.

    Returns:
        It, with the defaults.

    Raises:
        ProjectError: Something in the table cannot be used.
    """
    name = "[tool.lvao.checks]"
    if not isinstance(table, dict):
        raise wrong(folder, table, "checks", f"a table: {name}")
    warn = table.get("warn", [])
    if not is_texts(warn, list):
        raise wrong(folder, warn, "warn", "a list of file patterns", name)
    given = {promise: value for promise, value in table.items() if promise != "warn"}
    for promise, value in given.items():
        if promise not in PROMISES:
            raise ProjectError(
                f"{folder}/pyproject.toml has {promise} in {name}, which may hold {', '.join(PROMISES)}, warn."
            )
        if value not in ("error", "warning", "off"):
            raise wrong(folder, value, promise, "error, warning or off", name)
    return Checks(PROMISES | given, tuple(warn))


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
        if not is_texts(value, kind):
            raise wrong(folder, value, key, f"a {'table' if kind is dict else 'list'} of texts")
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
    own = read(here).get("tool", {}).get("lvao", {})
    chosen = named or os.environ.get("LVAO_PROJECT") or str(own.get("project", "."))
    folder = (here / Path(chosen).expanduser()).resolve()
    if not folder.is_dir():
        raise ProjectError(
            f"The project {folder} is not there: LVAO_PROJECT, or project in [tool.lvao], must name its folder."
        )
    content = read(folder)
    table, groups = content.get("tool", {}).get("lvao", {}), content.get("dependency-groups", {})
    if unknown := table.keys() - {*KEYS, "project"}:
        raise ProjectError(
            f"{folder}/pyproject.toml has {', '.join(sorted(unknown))} in [tool.lvao], "
            f"which may hold {', '.join(KEYS)}."
        )
    texts = {key: table.get(key, default) for key, default in TEXTS.items()}
    for key, value in texts.items():
        if not isinstance(value, str) or not value:
            raise wrong(folder, value, key, "a text")
    names = {key: table.get(key, "") for key in NAMES}
    for key, value in names.items():
        pattern, wanted = NAMES[key]
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise wrong(folder, value, key, wanted)
    build = table.get("build", [])
    if not is_texts(build, list):
        raise wrong(folder, build, "build", "a list of packages")
    checks, carried = checks_of(table.get("checks", {}), folder), of_releases(table, folder)
    if texts["group"] not in groups:
        raise ProjectError(
            f"{folder}/pyproject.toml has no dependency group {texts['group']}: [dependency-groups] must have it, "
            f"or group in [tool.lvao] must name another ({', '.join(groups) or 'there is none'})."
        )
    if not (folder / texts["dags"]).is_dir():
        raise ProjectError(
            f"{folder / texts['dags']} is not there: dags in [tool.lvao] must name the folder of the DAGs."
        )
    return Project(
        folder=folder,
        group=texts["group"],
        test_group=texts["test-group"],
        requires_python=str(content.get("project", {}).get("requires-python", "")),
        build=tuple(build),
        checks=checks,
        **{key.replace("-", "_"): folder / texts[key] for key in PATHS},
        **{key.replace("-", "_"): value for key, value in names.items()},
        **carried,
    )


def main() -> int:
    """Print one setting, or all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="?", choices=[one.name for one in fields(Project)], help="one setting, no JSON")
    arguments = parser.parse_args()
    try:
        found = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(find()).items()}
    except ProjectError as error:
        print(f"project: {error}", file=sys.stderr)
        return 1
    value = found[arguments.name] if arguments.name else json.dumps(found)
    print(*([value] if isinstance(value, str | dict) else value), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
