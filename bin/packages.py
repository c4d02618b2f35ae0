#!/usr/bin/env python3
"""Installs what a lock names, as hosts do: with hashes, and from wheels alone.

A package that the index has no wheel of, and one from Git or a folder, is built once, on the controller, and kept in
`.cache/wheelhouse` by what it was built from. What is installed is a list that names each such wheel by its hash.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from locked import LockError, Package, check, fits, header, key, parse, source_files
from packaging.utils import canonicalize_name, parse_wheel_filename
from project import HERE, Project, ProjectError, find

WHEELHOUSE = HERE / ".cache/wheelhouse"
UV = HERE / ".venv/bin/uv"
BUILD_SECONDS = 1800
# The oldest time that a zip file can hold: wheels of the same source do not differ by when they were built.
EPOCH = "315532800"


@dataclass(frozen=True)
class Wheel:
    """A built wheel.

    Attributes:
        package: The package of the lock.
        file: Where it is on this machine.
        place: Its path below the folder of wheels, which no other content ever has.
    """

    package: Package
    file: Path
    place: str

    def line(self, folder: str) -> str:
        """Write the line that installs it.

        Args:
            folder: Where the folder of wheels will be.

        Returns:
            A line of a list of requirements, with the wheel's hash.
        """
        marker = f" ; {self.package.marker}" if self.package.marker else ""
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()
        return f"{self.package.name} @ file://{quote(f'{folder}/{self.place}')}{marker} \\\n    --hash=sha256:{digest}"


@contextmanager
def alone() -> Iterator[None]:
    """Let no other process build meanwhile: Ansible may ask for several hosts at once."""
    WHEELHOUSE.mkdir(parents=True, exist_ok=True)
    with (WHEELHOUSE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read(lock: Path) -> str:
    """Read a lock.

    Args:
        lock: Its file.

    Returns:
        What it holds.

    Raises:
        LockError: It is missing, or cannot be read.
    """
    try:
        return lock.read_text()
    except FileNotFoundError:
        raise LockError(f"{lock} is missing: run 'make lock', and commit what it writes.") from None
    except (OSError, ValueError) as error:
        raise LockError(f"{lock} cannot be read: {error}") from None


def carried(project: Project, text: str) -> dict[str, Package]:
    """Find the packages of a lock whose wheels travel with it.

    Args:
        project: The project.
        text: What the lock holds.

    Returns:
        The packages by the digests of what they are built from.
    """
    return {key(project, package): package for package in parse(text) if package.built(project) or package.path}


def digest(keys: dict[str, Package]) -> str:
    """Digest what all packages are built from; empty where none is."""
    return hashlib.sha256(" ".join(sorted(keys)).encode()).hexdigest()[:16] if keys else ""


def build_all(project: Project, keys: dict[str, Package], python: str) -> list[Wheel]:
    """Build the packages that no earlier run has built.

    Args:
        project: The project.
        keys: The packages by the digests of what they are built from.
        python: Which Python they are for, such as 3.13.

    Returns:
        A wheel of each.
    """
    with alone():
        return [build(project, package, name, python) for name, package in keys.items()]


def build(project: Project, package: Package, name: str, python: str) -> Wheel:
    """Build a package, unless it is built already.

    Args:
        project: The project.
        package: The package.
        name: The digest of what it is built from.
        python: Which Python it is for.

    Returns:
        Its wheel.

    Raises:
        LockError: It cannot be built, or not for this Python.
    """
    for place in (f"{name}/any", f"{name}/{python}"):
        if found := list((WHEELHOUSE / place).glob("*.whl")):
            return Wheel(package, found[0], f"{place}/{found[0].name}")
    with tempfile.TemporaryDirectory(dir=WHEELHOUSE, prefix="build-") as work:
        wheel = build_in(Path(work), project, package, python)
        tags = parse_wheel_filename(wheel.name)[3]
        compiled = not any(tag.abi == "none" and tag.platform == "any" for tag in tags)
        place = f"{name}/{python if compiled else 'any'}"
        ready = Path(work) / "ready"
        ready.mkdir()
        wheel.rename(ready / wheel.name)
        (WHEELHOUSE / name).mkdir(exist_ok=True)
        ready.rename(WHEELHOUSE / place)
    return Wheel(package, WHEELHOUSE / place / wheel.name, f"{place}/{wheel.name}")


def build_in(work: Path, project: Project, package: Package, python: str) -> Path:
    """Build a package in an empty folder.

    Args:
        work: The folder.
        project: The project.
        package: The package.
        python: Which Python it is for.

    Returns:
        Its wheel.

    Raises:
        LockError: It cannot be built.
    """
    folder, hashed = project.folder / package.source, False
    if package.path.endswith(".whl"):
        return Path(shutil.copy(folder, work))
    if not package.path:
        hashed = bool(package.hashes)
        requirement = package.text.replace(f" ; {package.marker}", "") if package.marker else package.text
        origin = package.source or f"{package.name} {package.version}"
    else:
        origin = str(folder.resolve())
        copy = work / "source" / folder.resolve().name
        if folder.is_dir():
            for path in source_files(project, folder.resolve()):
                (copy / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(folder / path, copy / path, follow_symlinks=False)
        else:
            copy.parent.mkdir()
            shutil.copy2(folder, copy)
        requirement = f"{package.name} @ {copy.as_uri()}"
    (work / "wanted.txt").write_text(f"{requirement}\n")
    # uv builds wheels for an installation alone, and keeps them in its cache, which is empty here.
    command = [UV, "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--no-binary", package.name]
    command += ["--python", interpreter(python), "--python-version", python, "--target", work / "target"]
    # Where a member of a workspace finds the others is of no concern: it is built alone.
    command += ["--no-sources", *(["--require-hashes"] if hashed else []), *age(), "--requirement", work / "wanted.txt"]
    known = {"UV_CACHE_DIR": str(work / "cache"), "SOURCE_DATE_EPOCH": EPOCH}
    try:
        ended = subprocess.run(
            command,
            cwd=project.folder,
            env=os.environ | known,
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise LockError(f"The build of {package.name} from {origin} has not ended after {BUILD_SECONDS} s.") from None
    wheels = [
        path
        for path in (work / "cache").rglob("*.whl")
        if canonicalize_name(path.name.partition("-")[0]) == package.name
    ]
    if ended.returncode or not wheels:
        raise LockError(
            f"{package.name} cannot be built from {origin} for Python {python} by the Python {sys.version.split()[0]} "
            f"of this machine:\n{ended.stderr.strip()}"
            if Path(command[command.index("--python") + 1]) == Path(sys.executable)
            else f"{package.name} cannot be built from {origin} for Python {python}:\n{ended.stderr.strip()}"
        )
    return wheels[0]


def age() -> list[str]:
    """Say to uv how old a version must be; for an index that does not say when a file came, `LOCK_AGE` is empty."""
    bound = os.environ.get("LOCK_AGE", "7 days")
    return ["--exclude-newer", bound] if bound else []


def interpreter(python: str) -> str:
    """Find what builds packages for a Python: that one, or this one, which is enough for what compiles nothing."""
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    return find_python(python) or sys.executable


def find_python(specifier: str, *, download: bool = False) -> str | None:
    """Find a Python on this machine.

    Args:
        specifier: Which, such as `>=3.12,<3.13`.
        download: Whether uv may download it.

    Returns:
        Its path; nothing if there is none.
    """
    command = [UV, "python", "find", "--no-project", "--system", specifier]
    # What the user names goes first, if it fits.
    if named := os.environ.get("UV_PYTHON"):
        asked = subprocess.run([*command[:-1], named], capture_output=True, text=True, check=False)
        if asked.returncode == 0 and fits(version_of(asked.stdout.strip()), as_specifier(specifier)):
            return asked.stdout.strip()
    known = {name: value for name, value in os.environ.items() if name != "UV_PYTHON"}
    known["UV_PYTHON_DOWNLOADS"] = "never"
    found = subprocess.run(command, env=known, capture_output=True, text=True, check=False)
    if found.returncode and download:
        install = [UV, "python", "install", "--no-bin", specifier]
        tried = subprocess.run(install, env=os.environ, capture_output=True, text=True, check=False)
        if tried.returncode:
            raise LockError(
                f"This machine has no Python {specifier}, which the lock is for, and uv cannot download one: "
                "install one, name it in UV_PYTHON, or name a mirror in UV_PYTHON_INSTALL_MIRROR.\n"
                f"{tried.stderr.strip()}"
            )
        found = subprocess.run(command, env=known, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def as_specifier(wanted: str) -> str:
    """Write a version such as 3.12 as a specifier."""
    return f"=={wanted}.*" if wanted[:1].isdigit() else wanted


def version_of(python: str) -> str:
    """Ask a Python for its version."""
    asked = [python, "-I", "-c", "import platform; print(platform.python_version())"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def requirements(text: str, project: Project, wheels: list[Wheel], folder: str) -> str:
    """Write what is installed: the lock, in which each built package is its wheel.

    Args:
        text: What the lock holds.
        project: The project.
        wheels: The wheels.
        folder: Where the folder of wheels will be.

    Returns:
        A list of requirements, each with a hash.
    """
    built = {wheel.package.text: wheel.line(folder) for wheel in wheels}
    lines = [built.get(package.text, package.text) for package in parse(text)]
    return "\n".join([*lines, ""])


def describe(lock: Path, python: str, folder: str) -> dict[str, object]:
    """Say what a host installs.

    Args:
        lock: The lock.
        python: The host's Python.
        folder: Where the host has the folder of wheels; empty to build nothing, and say the digest alone.

    Returns:
        The digest of what packages are built from, the list of requirements, and the wheels that it names.

    Raises:
        LockError: The lock is older than the project, or for another Python, or names what cannot be built.
    """
    text, project = read(lock), find()
    check(lock, text, project)
    wanted = header(text)[0]
    if not fits(python, wanted):
        raise LockError(
            f"The host's Python is {python}, and {lock} is for {wanted}: name one that meets it in "
            "airflow_python_version or airflow_python_source, or change requires-python, or python in [tool.lvao], "
            f"in {project.folder}/pyproject.toml, and run 'make lock'."
        )
    keys = carried(project, text)
    if not folder or not keys:
        return {"digest": digest(keys), "requirements": str(lock), "wheels": []}
    wheels = build_all(project, keys, ".".join(python.split(".")[:2]))
    content = requirements(text, project, wheels, folder)
    written = WHEELHOUSE / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.txt"
    written.write_text(content)
    return {
        "digest": digest(keys),
        "requirements": str(written),
        "wheels": [{"src": str(wheel.file), "dest": wheel.place} for wheel in wheels],
    }


def install(folder: Path, project: Project) -> bool:
    """Install the project's lock on this machine, if it is not.

    What is there stays as it is if the lock cannot be installed.

    Args:
        folder: The virtual environment.
        project: The project.

    Returns:
        Whether something was installed.

    Raises:
        LockError: It cannot be installed.
    """
    locks = [project.requirements / "airflow.txt", project.requirements / "dag-tests.txt"]
    texts = [read(lock) for lock in locks if lock.exists() or lock == locks[0]]
    keys = carried(project, "\n".join(texts))
    stamp_file = folder / ".stamp"
    known = "\n".join([str(folder.resolve()), sys.version, os.environ.get("UV_PYTHON", ""), *texts, *sorted(keys)])
    stamp = hashlib.sha256(known.encode()).hexdigest()
    if stamp_file.exists() and stamp_file.read_text() == stamp:
        return False
    wanted = header(texts[0])[0] or pythons_default()
    own = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    own_fits = fits(own, wanted) and not os.environ.get("UV_PYTHON")
    python = sys._base_executable if own_fits else find_python(wanted, download=True)
    version = version_of(python)
    wheels = build_all(project, keys, ".".join(version.split(".")[:2]))
    stamp_file.unlink(missing_ok=True)
    if not same_python(folder, version):
        run_uv("venv", "--quiet", "--clear", "--python", python, folder)
    with tempfile.TemporaryDirectory() as work:
        for number, text in enumerate(texts):
            (Path(work) / f"{number}.txt").write_text(requirements(text, project, wheels, str(WHEELHOUSE)))
        files = sorted(Path(work).iterdir())
        run_uv("pip", "sync", "--quiet", "--python", folder / "bin/python", "--require-hashes", "--no-build", *files)
    stamp_file.write_text(stamp)
    return True


def pythons_default() -> str:
    """Say which Pythons a lock is for that does not say it: one from before it did."""
    return ">=3.11"


def same_python(folder: Path, version: str) -> bool:
    """Say whether a virtual environment is one of this Python."""
    python = folder / "bin/python"
    return python.exists() and version_of(str(python)) == version


def run_uv(*arguments: str | Path) -> None:
    """Run uv.

    Args:
        arguments: Its arguments.

    Raises:
        LockError: It fails.
    """
    ended = subprocess.run([UV, *arguments], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise LockError(f"uv {' '.join(map(str, arguments[:2]))} fails:\n{ended.stderr.strip()}")


def main() -> int:
    """Describe what a host installs, print what comes from the index, or install it on this machine."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    told = commands.add_parser("describe", help="say as JSON what a host installs")
    told.add_argument("lock", type=Path)
    told.add_argument("--python", required=True, help="the host's Python, such as 3.13.5")
    told.add_argument("--wheels", default="", help="the host's folder of wheels: build those that are missing")
    told = commands.add_parser("indexed", help="print what a lock takes from the index")
    told.add_argument("lock", type=Path)
    installed = commands.add_parser("install", help="install the project's lock on this machine")
    installed.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    try:
        if arguments.command == "describe":
            print(json.dumps(describe(arguments.lock.resolve(), arguments.python, arguments.wheels)))
        elif arguments.command == "indexed":
            print(*(one.text for one in parse(read(arguments.lock)) if not one.source), sep="\n")
        elif install(arguments.folder, project := find()):
            print(f"setup: installed {project.requirements} in {arguments.folder}")
    except (LockError, ProjectError) as error:
        print(f"setup: {error}" if arguments.command == "install" else error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
