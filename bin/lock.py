#!/usr/bin/env python3
"""Locks the packages of this repository's tools and of the team's project, as hosts install them.

Hosts build nothing, so a version without a wheel is none, unless the project names its package in `build` of
`[tool.lvao]`. What is locked already is kept; other versions are taken once they are `LOCK_AGE` old. Each lock is
written beside the old one, and takes its place once all can be installed.
"""

import argparse
import difflib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from locked import (
    INPUTS,
    PYTHON,
    LockError,
    blocks,
    fits,
    header,
    inputs,
    is_path,
    oldest,
    parse,
    pythons,
    reachable,
    table,
    with_paths,
)
from packages import UV, WHEELHOUSE, age, build_all, carried, requirements
from packaging.utils import canonicalize_name
from project import HERE, Project, ProjectError, find

# Debian 12 has the oldest Python that a lock is for, and the newest that is checked is Debian 13's.
DEBIAN = ("3.11", "3.13")
SETTINGS = HERE / "roles/airflow/vars/main/settings.yml"


@dataclass(frozen=True)
class Group:
    """A lock that is made.

    Attributes:
        lock: Its file.
        folder: Where the `pyproject.toml` is that it comes from.
        names: The dependency groups, each with the folder of its `pyproject.toml`.
        python: The oldest Python that it is for.
        constrained: The lock whose versions it takes, if there is one.
        build: The packages that may be built.
    """

    lock: Path
    folder: Path
    names: tuple[tuple[Path, str], ...]
    python: str
    constrained: Path | None = None
    build: tuple[str, ...] = ()


def groups_of(project: Project, here: Path = HERE) -> list[Group]:
    """List the locks, each after those that it depends on.

    Args:
        project: The team's project.
        here: This repository.

    Returns:
        They.
    """
    elsewhere = project.folder != here
    python = oldest(pythons(project))
    airflow, tests = project.requirements / "airflow.txt", project.requirements / "dag-tests.txt"
    has_tests = project.test_group in table(project.folder).get("dependency-groups", {})
    # Airflow and its providers must be there, whatever the project names.
    own = ((here, "airflow"),) if elsewhere else ()
    own_tests = ((here, "dag-tests"),) if elsewhere else ()
    of_project = ((project.folder, project.group),)
    of_tests = ((project.folder, project.test_group),) if has_tests else ()
    ours = here / "requirements"
    return [
        Group(ours / "uv.txt", here, ((here, "uv"),), "3.11"),
        Group(airflow, project.folder, own + of_project, python, None, project.build),
        Group(ours / "dev.txt", here, ((here, "dev"),), "3.11", ours / "airflow.txt"),
        Group(tests, project.folder, own_tests + of_tests, python, airflow, project.build),
    ]


def compile_command(group: Group, output: Path, constraints: Path | None, overrides: Path | None) -> list[str | Path]:
    """Write the command that resolves a group.

    Args:
        group: The group.
        output: Where uv finds the versions to keep, and writes the lock.
        constraints: Versions that it must take.
        overrides: Git commits that it keeps.

    Returns:
        The command.
    """
    command: list[str | Path] = [UV, "pip", "compile", "--quiet", "--universal", "--python-version", group.python]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    command += ["--only-binary", ":all:", *(part for name in group.build for part in ("--no-binary", name))]
    if "dependencies" in table(group.folder).get("project", {}):
        command.append("pyproject.toml")
    for folder, name in group.names:
        command += ["--group", name if folder == group.folder else f"{folder}/pyproject.toml:{name}"]
    if constraints:
        command += ["--constraints", constraints]
    if overrides:
        command += ["--overrides", overrides]
    return [*command, "--output-file", output]


def kept(locks: list[Path]) -> list[str]:
    """Say to uv that what is locked already may be young.

    Args:
        locks: The locks of now.

    Returns:
        Options of `uv pip compile`.
    """
    texts = [lock.read_text() for lock in locks if lock.exists()]
    names = sorted({name for text in texts for name in re.findall(r"^([a-z0-9][\w.-]*)==", text, re.MULTILINE)})
    return [part for name in names for part in ("--exclude-newer-package", f"{name}=false")]


def direct_names(folder: Path, group: str) -> set[str]:
    """Name the packages that a dependency group asks for itself.

    Args:
        folder: Where its `pyproject.toml` is.
        group: Its name.

    Returns:
        The names, with those of the groups that it includes.
    """
    groups = table(folder).get("dependency-groups", {})
    items = [item for name in reachable(groups, group) for item in groups.get(name) or [] if isinstance(item, str)]
    return {canonicalize_name(re.match(r"[\w.-]*", item)[0]) for item in items}


def no_wheel(group: Group, said: str) -> str | None:
    """Explain that a package has no wheel.

    Args:
        group: The group that was resolved.
        said: What uv says.

    Returns:
        Which, who wants it, and what to do; nothing if uv failed for another reason.
    """
    names = sorted(set(re.findall(r"`([^`]+)` because building from source is disabled", said)))
    if not names:
        return None
    flat = " ".join(said.split())
    lines = []
    for name in names:
        # Of a version, of a range and of an extra uv says the same.
        wanting = re.findall(rf"([\w.-]+)(?:\[[\w,.-]*\])?\S* depends? on {re.escape(name)}(?![\w-])", flat)
        direct = re.search(rf"(?:you require|depends? on) {re.escape(name)}(?![\w-])", flat) and not wanting
        owners = [(folder, one) for folder, one in group.names if name in direct_names(folder, one)] or group.names
        named = ", ".join(f"{one} in {folder}/pyproject.toml" for folder, one in owners)
        who = ", ".join(sorted(set(wanting))) or (f"the group {named}" if direct else f"a package of the group {named}")
        lines.append(f"{name} has no wheel that hosts could install, and hosts build nothing. It is wanted by {who}.")
    quoted = ", ".join(
        f'"{name}"' for name in dict.fromkeys([*group.build, *(re.split("[=<>]", one)[0] for one in names)])
    )
    lines.append(
        f"Ask for a version that has one, or let it be built on this machine: build = [{quoted}] in [tool.lvao] of "
        f"{group.folder}/pyproject.toml."
    )
    return "\n".join([*lines, "", said.strip()])


def resolve(group: Group, output: Path, constraints: Path | None, options: list[str], keep_commits: bool) -> None:
    """Resolve a group.

    Args:
        group: The group.
        output: Where the lock is written.
        constraints: The new lock whose versions it takes, if there is one.
        options: Options of `uv pip compile`.
        keep_commits: Whether to keep the Git commits that the lock of now names.

    Raises:
        LockError: It cannot be resolved, or names what may not be built.
    """
    before = group.lock.read_text() if group.lock.exists() else ""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(f"{one.text}\n" for one in parse(before) if not one.source))
    commits = [one.text for one in parse(before) if one.source.startswith("git+")] if keep_commits else []
    pinned = None
    if constraints:
        # uv takes no sources as constraints.
        pinned = output.with_suffix(".constraints")
        found = list(parse(constraints.read_text()))
        marked = [
            f"{one.name}=={one.version}{f' ; {one.marker}' if one.marker else ''}" for one in found if not one.source
        ]
        pinned.write_text("\n".join([*marked, ""]))
        of_both = [one.text for one in found if one.source.startswith("git+")]
        commits = of_both or commits
    overrides = output.with_suffix(".overrides") if commits else None
    if overrides:
        overrides.write_text("\n".join([*commits, ""]))
    command = [*compile_command(group, output, pinned, overrides), *options]
    ended = subprocess.run(command, cwd=group.folder, capture_output=True, text=True, check=False)
    if ended.returncode:
        names = ", ".join(f"the group {name} of {folder}/pyproject.toml" for folder, name in group.names)
        raise LockError(no_wheel(group, ended.stderr) or f"uv cannot resolve {names}:\n{ended.stderr.strip()}")
    text = output.read_text()
    if any(is_path(block) for block in blocks(text)):
        # The same once more, in a form that has name and path of each folder.
        same = output.with_suffix(".same")
        same.write_text("\n".join(block.partition(" \\")[0] for block in blocks(text) if "==" in block))
        pylock = output.with_name("pylock.toml")
        command = [*compile_command(group, pylock, same, overrides), *options, "--format", "pylock.toml"]
        subprocess.run(command, cwd=group.folder, capture_output=True, check=True)
        output.write_text(with_paths(text, tomllib.loads(pylock.read_text()), group.folder, pylock.parent))


def may_build(project: Project, text: str) -> None:
    """Refuse to build what the project does not name.

    Args:
        project: The project.
        text: The new lock.

    Raises:
        LockError: There is something.
    """
    named = {canonicalize_name(name) for name in project.build}
    packages = [one for one in parse(text) if one.source and one.built(project) and one.name not in named]
    if packages:
        quoted = ", ".join(f'"{name}"' for name in [*project.build, *(one.name for one in packages)])
        raise LockError(
            f"{' and '.join(f'{one.name} comes from {one.source}' for one in packages)}, so that this machine "
            "builds it and runs its code. If you want that, name it: "
            f"build = [{quoted}] in [tool.lvao] of {project.folder}/pyproject.toml."
        )


def prove(project: Project, text: str, specifier: str) -> None:
    """Refuse a lock that hosts cannot install.

    Args:
        project: The project.
        text: The new lock.
        specifier: Which Pythons it is for.

    Raises:
        LockError: It cannot be installed.
    """
    first = oldest(specifier)
    # A project that names no Python runs on each Debian's.
    others = [version for version in DEBIAN if fits(version, specifier)] if not project.python else []
    keys = carried(project, text)
    machine = "aarch64" if platform.machine() in {"aarch64", "arm64"} else "x86_64"
    for python in dict.fromkeys([first, *others]):
        hint = "" if python == first else f' If no host has it, say python = "{first}" in [tool.lvao].'
        try:
            wheels = build_all(project, keys, python)
        except LockError as error:
            raise LockError(f"{error}{hint}") from None
        with tempfile.TemporaryDirectory() as work:
            (Path(work) / "wanted.txt").write_text(requirements(text, project, wheels, str(WHEELHOUSE)))
            command = [UV, "pip", "install", "--dry-run", "--quiet", "--no-deps", "--require-hashes", "--no-build"]
            command += ["--python", sys.executable, "--python-version", python, "--target", f"{work}/target"]
            # The C library of Debian 12, the oldest.
            command += ["--python-platform", f"{machine}-manylinux_2_36", "--requirement", f"{work}/wanted.txt"]
            ended = subprocess.run(command, cwd=project.folder, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise LockError(
                f"What was resolved cannot be installed with Python {python}, so the lock stays as it was.{hint}\n"
                f"{ended.stderr.strip()}"
            )


def make(project: Project, work: Path, upgrade: bool, check_only: bool, here: Path = HERE) -> dict[Path, Path]:
    """Resolve all groups into a folder.

    Args:
        project: The project.
        work: The folder.
        upgrade: Whether to take the latest versions, instead of those that are locked.
        check_only: Whether the locks of now are only compared.
        here: This repository.

    Returns:
        The new file of each lock.
    """
    groups = groups_of(project, here)
    options = [] if check_only else [*age(), *(["--upgrade"] if upgrade else kept([group.lock for group in groups]))]
    specifier = pythons(project)
    made: dict[Path, Path] = {}
    for number, group in enumerate(groups):
        output = work / str(number) / group.lock.name
        constraints = made.get(group.constrained, group.constrained) if group.constrained else None
        constraints = constraints if constraints and constraints.exists() else None
        before = group.lock.read_text() if group.lock.exists() else ""
        paths = [one.path for one in parse(before) if one.path]
        keep = not upgrade and header(before)[1][1] == inputs(project, paths, here)[1]
        resolve(group, output, constraints, options, keep)
        if group.lock.parent == project.requirements and group.lock.name in {"airflow.txt", "dag-tests.txt"}:
            text = output.read_text()
            may_build(project, text)
            made_of = inputs(project, [one.path for one in parse(text) if one.path], here)
            first_lines = f"# Made by `make lock`. Do not edit.\n{PYTHON}{specifier}\n{INPUTS}{' and '.join(made_of)}\n"
            output.write_text(f"{first_lines}{text}")
            if not check_only:
                prove(project, output.read_text(), specifier)
        made[group.lock] = output
    return made


def compare(made: dict[Path, Path]) -> bool:
    """Show where locks differ from what was resolved.

    Args:
        made: The new file of each lock.

    Returns:
        Whether all are as they were.
    """
    same = True
    for lock, new in made.items():
        before = lock.read_text().splitlines() if lock.exists() else []
        lines = list(
            difflib.unified_diff(before, new.read_text().splitlines(), str(lock), "as resolved", lineterm="", n=0)
        )
        print(*lines, sep="\n", end="\n" if lines else "")
        same = same and not lines
    return same


def settings_file(project: Project) -> Path:
    """Say where the names of Airflow's settings are, of the providers that a project locks."""
    return SETTINGS if project.folder == HERE else project.requirements / "airflow-settings.yml"


def settings_of(airflow: Path) -> str:
    """Ask an installed Airflow for the names of its settings.

    Args:
        airflow: The Python that has it.

    Returns:
        The content of their file.

    Raises:
        LockError: They cannot be read.
    """
    ended = subprocess.run([airflow, HERE / "bin/airflow-settings"], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise LockError(f"The settings of the locked Airflow cannot be read:\n{ended.stderr.strip()}")
    return ended.stdout


def main() -> int:
    """Make the locks, compare them, or renew what is derived from them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--upgrade", action="store_true", help="take the latest versions")
    parser.add_argument(
        "--check", action="store_true", help="only say whether the locks are what pyproject.toml asks for"
    )
    parser.add_argument(
        "--settings", action="store_true", help="only renew, or compare, the names of Airflow's settings"
    )
    arguments = parser.parse_args()
    os.environ.pop("UV_PYTHON", None)
    try:
        project = find()
        if arguments.settings:
            file, content = settings_file(project), settings_of(HERE / ".venv-airflow/bin/python")
            if file.exists() and file.read_text() == content:
                return 0
            if arguments.check:
                raise LockError(f"The locked Airflow has other settings than {file}: run 'make lock'.")
            file.write_text(content)
            return 0
        with tempfile.TemporaryDirectory(prefix="lvao-lock-") as work:
            made = make(project, Path(work), arguments.upgrade, arguments.check)
            if arguments.check:
                if compare(made):
                    return 0
                print("lock-check: pyproject.toml has changed: run 'make lock'", file=sys.stderr)
                return 1
            for lock, new in made.items():
                lock.parent.mkdir(parents=True, exist_ok=True)
                # A file system of its own cannot be renamed from.
                shutil.copyfile(new, lock.with_suffix(".new"))
                lock.with_suffix(".new").replace(lock)
    except (LockError, ProjectError) as error:
        print(f"lock: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
