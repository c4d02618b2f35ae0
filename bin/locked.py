"""The lock of the team's project: how it is read, and what says that it is older than the project.

It is what `uv pip compile` writes, with two differences. Packages that are built from a folder stand in it by their
path from the project. Its first lines say which Python it is for, and what it was made of.
"""

import hashlib
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from project import HERE, Project

# Airflow 3.3 runs on no older one, and Debian 12 has it.
OLDEST = 11
NEWEST = 30
OLDER = ("3", "3.0", *(f"3.{minor}" for minor in range(6, OLDEST)))
PYTHON = "# for Python "
INPUTS = "# made of "
# What a tool or Python leaves in a source folder, for folders that Git does not know.
LEFT_BEHIND = {".git", ".venv", ".tox", "__pycache__", "build", "dist", ".pytest_cache", ".ruff_cache", ".mypy_cache"}


class LockError(Exception):
    """The lock cannot be made or used; the message says why, and what would be right."""


@dataclass(frozen=True)
class Package:
    """One package of a lock.

    Attributes:
        name: Its name.
        version: Its version, or empty if it comes from a source.
        source: The Git address with the commit, or the path from the project; empty for a package of the index.
        marker: On which hosts it is installed; empty for all.
        hashes: SHA-256 of its files in the index.
        text: Its lines in the lock.
    """

    name: str
    version: str
    source: str
    marker: str
    hashes: tuple[str, ...]
    text: str

    @property
    def remote(self) -> bool:
        """Whether its source is a Git repository or another address, which the lock names to the byte."""
        return "://" in self.source

    @property
    def path(self) -> str:
        """Its folder or file, by the path from the project; empty for a package from elsewhere."""
        return "" if self.remote else self.source

    def built(self, project: Project) -> bool:
        """Whether it is built from source: one that the project names, or whose source is no wheel."""
        return not self.source.endswith(".whl") if self.source else self.name in map(canonicalize_name, project.build)


def parse(text: str) -> Iterator[Package]:
    """Read the packages of a lock.

    Args:
        text: What the lock holds.

    Yields:
        Each package.

    Raises:
        LockError: A line names no package.
    """
    for block in blocks(text):
        requirement = block.partition("--hash=")[0].rstrip(" \\\n")
        requirement, _, marker = requirement.partition(" ; ")
        # uv may write a short marker without a space before it.
        if "==" in requirement and ";" in requirement:
            requirement, _, marker = requirement.partition(";")
        name, at, source = requirement.partition(" @ ")
        version = ""
        if not at:
            name, _, version = requirement.partition("==")
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(\[[\w,. -]*\])?", name.strip()) or not (version or source):
            raise LockError(f"The lock has a line that names no package and version: {requirement}")
        yield Package(
            name=canonicalize_name(name.partition("[")[0].strip()),
            version=version.strip(),
            source=source.strip(),
            marker=marker.strip(),
            hashes=tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", block)),
            text=block,
        )


def with_paths(text: str, pylock: dict[str, object], folder: Path, beside: Path) -> str:
    """Name folders and files that a lock takes packages from by their path from the project.

    Args:
        text: What uv has written, where such a line has a path of one form or another, and may have no name.
        pylock: The same lock as `pylock.toml`, which has both.
        folder: The project's folder.
        beside: The folder that the paths of `pylock.toml` start from.

    Returns:
        The lock, in which each such line is `name @ ./path`.
    """
    lines = []
    for package in pylock.get("packages", []):
        path = (package.get("directory") or package.get("archive") or {}).get("path")
        if path:
            relative = os.path.relpath((beside / path).resolve(), folder)
            relative = relative if relative.startswith(".") else f"./{relative}"
            marker = f" ; {package['marker']}" if "marker" in package else ""
            lines.append(f"{canonicalize_name(package['name'])} @ {relative}{marker}")
    others = [block for block in blocks(text) if not is_path(block)]
    return "\n".join([*lines, *others, ""])


def blocks(text: str) -> list[str]:
    """Split a lock into its packages, each with the lines of its hashes."""
    return re.findall(r"^(?!#)\S(?:.*\\\n)*.*", text, re.MULTILINE)


def is_path(block: str) -> bool:
    """Say whether uv has written the path of a folder or a file as a package."""
    requirement = block.partition(" ; ")[0].partition(" \\")[0]
    source = requirement.partition(" @ ")[2] or requirement
    return "==" not in requirement and (source.startswith(("-e ", "file:")) or "://" not in source)


def table(folder: Path) -> dict[str, dict[str, object]]:
    """Read the `pyproject.toml` of a folder, or nothing where there is none."""
    try:
        return tomllib.loads((folder / "pyproject.toml").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise LockError(f"{folder}/pyproject.toml cannot be read: {error}") from None


def pythons(project: Project) -> str:
    """Say which Pythons the lock of a project is for.

    Args:
        project: It.

    Returns:
        A specifier such as `>=3.12,<3.13`.

    Raises:
        LockError: The project takes none that Airflow runs on, or not the one that it names.
    """
    pyproject = project.folder / "pyproject.toml"
    try:
        wanted = SpecifierSet(project.requires_python)
    except InvalidSpecifier:
        raise LockError(
            f"{pyproject} has {project.requires_python} as requires-python, which is no specifier such as >=3.12,<3.13."
        ) from None
    if project.python and not fits(project.python, project.requires_python):
        raise LockError(
            f"{pyproject} has {project.python} as python in [tool.lvao], which does not meet its own "
            f"requires-python, {project.requires_python}."
        )
    if project.python and int(project.python.partition(".")[2]) < OLDEST:
        raise LockError(
            f"{pyproject} has {project.python} as python in [tool.lvao], which must be 3.{OLDEST} or newer."
        )
    oldest = project.python or next(
        (f"3.{minor}" for minor in range(OLDEST, NEWEST) if fits(f"3.{minor}", project.requires_python)), None
    )
    if oldest is None:
        raise LockError(
            f"{pyproject} has {project.requires_python} as requires-python, which no Python from 3.{OLDEST} on meets."
        )
    # What the oldest says already is left out.
    said = {f"{operator}{version}" for operator in (">=", ">") for version in (oldest, *OLDER)}
    return ",".join([f">={oldest}", *sorted(str(one) for one in wanted if str(one) not in said)])


def fits(python: str, specifier: str) -> bool:
    """Say whether a Python meets a specifier.

    Args:
        python: Its version, such as 3.12.1; if it is 3.12, a patch of it must do.
        specifier: The specifier; empty for any.

    Returns:
        Whether it does.
    """
    versions = [python] if python.count(".") > 1 else [f"{python}.{patch}" for patch in range(99)]
    return any(version in SpecifierSet(specifier) for version in versions)


def oldest(specifier: str) -> str:
    """Say the oldest Python that meets a specifier which `pythons` has written."""
    return specifier.removeprefix(">=").partition(",")[0]


def inputs(project: Project, paths: list[str], here: Path = HERE) -> tuple[str, str]:
    """Digest what a lock is made of, as far as the project says it.

    Args:
        project: The project.
        paths: The folders, by their paths from the project, that packages are built from.
        here: This repository, whose group `airflow` counts if the project lies elsewhere.

    Returns:
        The digest of all, and that of the sources of packages alone.
    """
    own = table(project.folder)
    groups, uv = own.get("dependency-groups", {}), own.get("tool", {}).get("uv", {})
    sources: list[object] = [uv.get("sources"), uv.get("workspace")]
    wanted: list[object] = [
        own.get("project", {}).get("dependencies"),
        [groups.get(name) for name in reachable(groups, project.group)],
        {name: value for name, value in uv.items() if name not in {"sources", "workspace", "package"}},
        sorted(project.build),
        pythons(project),
    ]
    if project.folder != here:
        wanted.append(table(here).get("dependency-groups", {}).get("airflow"))
    for path in sorted(paths):
        source = table(project.folder / path)
        facts = source.get("project", {})
        wanted.append([facts.get(name) for name in ("dependencies", "optional-dependencies", "requires-python")])
        sources.append(source.get("tool", {}).get("uv", {}).get("sources"))
    direct = [one for one in re.findall(r"'[^']*@[^']*'", repr(wanted)) if "git+" in one]
    short = [hashlib.sha256(repr(one).encode()).hexdigest()[:16] for one in ([wanted, sources], [sources, direct])]
    return short[0], short[1]


def reachable(groups: dict[str, object], name: str) -> list[str]:
    """Name a dependency group and those that it includes.

    Args:
        groups: All groups.
        name: The group.

    Returns:
        The names, the group's first.
    """
    found = [name]
    for one in found:
        for item in groups.get(one) or []:
            if isinstance(item, dict) and (included := item.get("include-group")) not in (None, *found):
                found.append(included)
    return found


def header(text: str) -> tuple[str, tuple[str, str]]:
    """Read the first lines of a lock.

    Args:
        text: What the lock holds.

    Returns:
        Which Pythons it is for, and the digests of what it was made of; empty where it does not say so.
    """
    python = re.search(rf"^{PYTHON}(\S+)$", text, re.MULTILINE)
    made = re.search(rf"^{INPUTS}(\w+) and (\w+)$", text, re.MULTILINE)
    return python[1] if python else "", (made[1], made[2]) if made else ("", "")


def check(lock: Path, text: str, project: Project) -> None:
    """Refuse a lock that is older than the project.

    Args:
        lock: Its file.
        text: What it holds.
        project: The project.

    Raises:
        LockError: It is older.
    """
    made, _ = header(text)[1]
    paths = [package.path for package in parse(text) if package.path]
    if lock.parent != project.requirements or not made:
        return
    if made != inputs(project, paths)[0]:
        raise LockError(
            f"{lock} is older than {project.folder}/pyproject.toml, whose packages have changed: "
            "run 'make lock', and commit what it writes."
        )


def source_files(project: Project, folder: Path) -> list[str]:
    """List the files that a package is built from.

    Args:
        project: The project, whose DAGs and lock are no part of a package that it is itself.
        folder: The package's folder.

    Returns:
        Paths from the folder: what Git knows and does not ignore; all but leftovers where Git knows nothing.
    """
    asked = ["git", "-C", str(folder), "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", "."]
    listed = subprocess.run(asked, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        paths = [path for path in listed.stdout.split("\0") if path]
    else:
        paths = [str(path.relative_to(folder)) for path in folder.rglob("*")]
        paths = [path for path in paths if not LEFT_BEHIND.intersection(Path(path).parts)]
    left_out = [project.dags, project.requirements] if folder == project.folder else []
    return sorted(
        path
        for path in set(paths)
        if not any((folder / path).is_relative_to(one) for one in left_out)
        and not any(part.startswith(".env") or part.endswith(".egg-info") for part in Path(path).parts)
        and ((folder / path).is_symlink() or (folder / path).is_file())
    )


def key(project: Project, package: Package) -> str:
    """Name what a package is built from.

    Args:
        project: The project.
        package: One that is built.

    Returns:
        A digest: of the archive's hash in the index, of the Git commit, or of the files of the folder.

    Raises:
        LockError: The folder is not there, or cannot be read.
    """
    digest = hashlib.sha256(f"{package.name} {package.version}".encode())
    path = project.folder / package.source
    try:
        if not package.path:
            digest.update(" ".join([package.source, *sorted(package.hashes)]).encode())
        elif path.is_file():
            digest.update(path.read_bytes())
        elif path.is_dir():
            for name in source_files(project, path.resolve()):
                file = path / name
                content = os.fsencode(file.readlink()) if file.is_symlink() else file.read_bytes()
                executable = not file.is_symlink() and bool(file.stat().st_mode & 0o100)
                digest.update(f"{name} {executable} {hashlib.sha256(content).hexdigest()}\n".encode())
        else:
            raise LockError(f"{path.resolve()}, which {package.name} is built from, is not there.")
    except OSError as error:
        raise LockError(f"{package.name} cannot be built from {path.resolve()}: {error}") from None
    return digest.hexdigest()[:16]
