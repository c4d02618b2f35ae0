#!/usr/bin/python
"""Ansible module: pack folders so that equal content gives equal bytes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deterministic_archive
short_description: Pack folders so that equal content gives equal bytes
description:
  - Writes an uncompressed tar archive of folders, with members in sorted order and without times or owners,
    so that its digest says whether the content changed. M(community.general.archive) records modification times.
  - Of a folder in a Git repository it takes what Git knows, tracked or new, and leaves out what Git ignores. Of
    another folder, and of one that Git ignores as a whole, it takes everything. Names that begin with C(.env),
    C(__pycache__) and C(.git) always stay behind.
options:
  dest:
    description: The archive to write. Its parent folder is made if missing.
    type: path
    required: true
  folders:
    description: The folders to pack. Two may have the same root, but no file of the same name.
    type: list
    elements: dict
    required: true
    suboptions:
      src:
        description: The folder.
        type: path
        required: true
      root:
        description: Its path inside the archive.
        type: str
        required: true
      exclude:
        description: Names of files and folders to leave out, at the folder's top alone; shell patterns.
        type: list
        elements: str
        default: []
  include:
    description: Files and folders, inside those of O(folders), to pack although Git ignores them.
    type: list
    elements: path
    default: []
author: the lvao-airflow maintainers
"""

EXAMPLES = r"""
- name: Pack the DAGs, and a dbt project with its packages
  deterministic_archive:
    dest: /tmp/dags.tar
    folders:
      - {src: /srv/project/dags, root: dags, exclude: [tests]}
      - {src: /srv/project/dbt, root: dbt}
    include: [/srv/project/dbt/dbt_packages]
  delegate_to: localhost
"""

RETURN = r"""
digest:
  description: SHA-256 of the archive, in hexadecimal.
  type: str
  returned: always
"""

import fnmatch
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ansible.module_utils.basic import AnsibleModule

# Secrets of a developer's machine, and what Python and Git keep for themselves.
NEVER = (".env*", "__pycache__", ".git")


@dataclass(frozen=True)
class Folder:
    """A folder to pack.

    Attributes:
        src: Where it is.
        root: Its path inside the archive.
        exclude: Shell patterns of names to leave out, at its top alone.
    """

    src: Path
    root: str
    exclude: Sequence[str] = ()

    def holds(self, path: PurePath) -> bool:
        """Tell whether a file of the folder, by its path in there, may be packed."""
        top = any(fnmatch.fnmatchcase(path.parts[0], pattern) for pattern in self.exclude)
        return not top and not any(fnmatch.fnmatchcase(part, pattern) for part in path.parts for pattern in NEVER)


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, and symbolic links, which are not followed.

    Raises:
        OSError: A folder cannot be read.
    """
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            if not any(fnmatch.fnmatchcase(path.name, pattern) for pattern in NEVER):
                yield from walk(path)
        else:
            yield path


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Ask Git about a folder, whatever repository a hook that runs this has named."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, check=False)  # noqa: S603 - Git of the controller


def known(folder: Path) -> list[Path] | None:
    """List the files below a folder that Git tracks, or would if they were added.

    Args:
        folder: Where to look.

    Returns:
        The files, or None where Git has no say: there is no repository, no Git, or it ignores the folder.

    Raises:
        ValueError: Git cannot read its repository, or one inside it.
    """
    real = folder.resolve()
    if not any((parent / ".git").exists() for parent in (real, *real.parents)) or not shutil.which("git"):
        return None
    if git(real, "check-ignore", "--quiet", ".").returncode == 0:
        return None
    listed = git(real, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed.returncode:
        reason = listed.stderr.decode(errors="replace").strip()
        message = f"Git does not say which files of {folder} it knows: {reason}"
        raise ValueError(message)
    files = []
    for name in filter(None, listed.stdout.split(b"\0")):
        path = folder / os.fsdecode(name)
        if path.is_dir() and not path.is_symlink():
            # A submodule, or another repository.
            if not (path / ".git").exists():
                message = f"{path} is a submodule that is not there: run 'git submodule update --init'"
                raise ValueError(message)
            files += known(path) or []
        elif path.is_symlink() or path.exists():
            files.append(path)
    return files


def members(folders: Sequence[Folder], include: Sequence[Path] = ()) -> dict[str, Path]:
    """Choose what to pack.

    Args:
        folders: The folders to pack.
        include: Files and folders to pack although Git ignores them.

    Returns:
        Each file or symbolic link, by its name in the archive.

    Raises:
        OSError: A folder cannot be read.
        ValueError: Something is missing, or a file has the name of another.
    """
    for named in include:
        if not named.exists():
            message = f"{named} is to be packed, and is not there: name what exists, or have the build command make it"
            raise ValueError(message)
        if not any(named.is_relative_to(folder.src) for folder in folders):
            message = f"{named} is to be packed, and lies in none of {', '.join(str(folder.src) for folder in folders)}"
            raise ValueError(message)
    chosen: dict[str, Path] = {}
    for folder in folders:
        if not folder.src.is_dir():
            message = f"{folder.src} is not a folder"
            raise ValueError(message)
        files = known(folder.src)
        paths = {*(walk(folder.src) if files is None else files)}
        for named in include:
            if named.is_relative_to(folder.src):
                paths |= {*walk(named)} if named.is_dir() else {named}
        for path in paths:
            relative = path.relative_to(folder.src)
            if not folder.holds(relative):
                continue
            name = f"{folder.root}/{relative.as_posix()}"
            if chosen.setdefault(name, path) != path:
                message = f"{chosen[name]} and {path} would both be {name}: rename or remove the former"
                raise ValueError(message)
    return chosen


def link_target(path: Path, name: str, folders: Sequence[Folder], chosen: dict[str, Path]) -> str:
    """Find where a symbolic link leads in the archive.

    Args:
        path: The link.
        name: Its name in the archive.
        folders: The folders to pack.
        chosen: What is packed.

    Returns:
        The path from the link's folder.

    Raises:
        ValueError: It leads to nothing that is packed.
    """
    target = Path(os.path.realpath(path))
    if not target.exists():
        message = f"{path} is a link to {path.readlink()}, which is not there: remove it, or make what it leads to"
        raise ValueError(message)
    for folder in folders:
        if target.is_relative_to(folder.src.resolve()):
            found = (PurePath(folder.root) / target.relative_to(folder.src.resolve())).as_posix()
            if any(other == found or other.startswith(f"{found}/") for other in chosen):
                return os.path.relpath(found, PurePath(name).parent)
    message = f"{path} is a link to {target}, which is not packed with it: put the file itself there"
    raise ValueError(message)


def directories(names: Iterable[str], roots: Sequence[str]) -> dict[str, set[str]]:
    """Find the folders of an archive.

    Args:
        names: Its files.
        roots: Folders that it has in any case.

    Returns:
        The names in each folder, by its path.
    """
    found: dict[str, set[str]] = {root: set() for root in roots}
    for name in [*names, *roots]:
        child = PurePath(name)
        for parent in child.parents:
            if parent.name:
                found.setdefault(parent.as_posix(), set()).add(child.name)
            child = parent
    return found


def directory_time(names: Iterable[str]) -> int:
    """Make a time of the names in a folder.

    A process keeps what it has seen in a folder of its PYTHONPATH until the folder's time differs. Under a link that a
    deploy moves, folders of the same time would hide new modules from it.
    """
    digest = hashlib.sha256("\0".join(sorted(names)).encode(errors="surrogateescape"))
    # It lies in the past, whatever the digest: tar warns of times that are to come.
    return int.from_bytes(digest.digest()[:4], "big") >> 4


def pack(folders: Sequence[Folder], include: Sequence[Path] = ()) -> bytes:
    """Pack folders.

    Args:
        folders: The folders to pack.
        include: Files and folders to pack although Git ignores them.

    Returns:
        The archive's bytes: the same for the same names, contents and executable bits.

    Raises:
        OSError: A file cannot be read.
        ValueError: Something is neither a file, a folder nor a symbolic link to one of these, or has another's name.
    """
    chosen = members(folders, include)
    within = directories(chosen, [folder.root for folder in folders])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted({*within, *chosen}, key=lambda name: PurePath(name).parts):
            member = tarfile.TarInfo(name)
            if name in within:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                member.mtime = directory_time(within[name])
                archive.addfile(member)
                continue
            path = chosen[name]
            if path.is_symlink():
                member.type, member.mode = tarfile.SYMTYPE, 0o777
                member.linkname = link_target(path, name, folders, chosen)
                archive.addfile(member)
            elif path.is_file():
                content = path.read_bytes()
                member.size, member.mode = len(content), 0o755 if path.stat().st_mode & 0o100 else 0o644
                archive.addfile(member, io.BytesIO(content))
            else:
                message = f"{path} is neither a file, a folder nor a symbolic link"
                raise ValueError(message)
    return buffer.getvalue()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "dest": {"type": "path", "required": True},
            "folders": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "src": {"type": "path", "required": True},
                    "root": {"type": "str", "required": True},
                    "exclude": {"type": "list", "elements": "str", "default": []},
                },
            },
            "include": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    # A role's folder is spelt with `..`, and Git's answers are not.
    folders = [
        Folder(Path(os.path.realpath(one["src"])), one["root"], one["exclude"]) for one in module.params["folders"]
    ]
    include = [Path(os.path.realpath(path)) for path in module.params["include"]]
    dest = Path(module.params["dest"])
    try:
        content = pack(folders, include)
        changed = not dest.is_file() or dest.read_bytes() != content
        if changed and not module.check_mode:
            dest.parent.mkdir(parents=True, exist_ok=True)
            dest.write_bytes(content)
    except OSError as error:
        module.fail_json(msg=f"{error.filename or dest} cannot be read or written: {error.strerror}")
    except ValueError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, digest=hashlib.sha256(content).hexdigest())


if __name__ == "__main__":
    main()
