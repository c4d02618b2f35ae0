#!/usr/bin/python
"""Ansible module: install programs that are pinned by their SHA-256, and remove those that are no longer listed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pinned_binaries
short_description: Install programs that are pinned by their SHA-256
description:
  - Fetches what is missing, and compares the SHA-256 of all of it before it changes anything.
  - Each version of a program has a file of its own in O(folder). A link in O(links) names the current one, so that it
    is replaced at once, and what runs goes on.
  - Links to files in O(folder), and files there, that no program of O(binaries) has are removed.
options:
  binaries:
    description: The programs, all that there are to be.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the program.
        type: str
        required: true
      file:
        description: Name of its file, which another version does not have.
        type: str
        required: true
      sha256:
        description: SHA-256 of what is fetched, in hexadecimal.
        type: str
        required: true
      url:
        description: Address that it is fetched from.
        type: str
      path:
        description: Where there is no O(binaries[].url), where the controller has it, for messages.
        type: str
      incoming:
        description: Name of the file in O(folder) that it is taken from then.
        type: str
      member:
        description: Path of the program in what is fetched, which is a tar or zip archive then.
        type: str
  folder:
    description: Where the files are.
    type: path
    default: /usr/local/lib/lvao-binaries
  links:
    description: Where the links are.
    type: path
    default: /usr/local/bin
author: the lvao-airflow maintainers
"""

EXAMPLES = r"""
- name: Install Scaleway's command line
  pinned_binaries:
    binaries:
      - name: scw
        file: scw-2.40.0
        url: https://downloads.lvao.test/scw
        sha256: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
"""

RETURN = r"""
installed:
  description: Names of the programs that were fetched, or would be.
  type: list
  returned: success
removed:
  description: Names of the links that were removed, or would be.
  type: list
  returned: success
"""

import hashlib
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

CHUNK = 2**20
TIMEOUT = 60
SHOWN = 10


class RefusedError(Exception):
    """What cannot be installed, and why."""


def copy(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy a file, and compute its SHA-256.

    Args:
        source: Where to read.
        target: Where to write.

    Returns:
        It, in hexadecimal.
    """
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


@contextmanager
def member_of(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """Open a file of an archive.

    Args:
        archive: A tar or zip file.
        member: The path of the file in it.

    Yields:
        What reads it.

    Raises:
        RefusedError: It is no archive, or has no such file.
    """
    with ExitStack() as opened:
        if zipfile.is_zipfile(archive):
            packed = opened.enter_context(zipfile.ZipFile(archive))
            names = [info.filename for info in packed.infolist() if not info.is_dir()]
            files = {name: name for name in names}
            read = packed.open
        elif tarfile.is_tarfile(archive):
            unpacked = opened.enter_context(tarfile.open(archive))
            files = {info.name: info for info in unpacked.getmembers() if info.isfile()}
            read = unpacked.extractfile
        else:
            message = f"member is {member}, and what was fetched is no tar or zip archive: leave member out"
            raise RefusedError(message)
        # Both are the same path to tar.
        found = next((name for name in files if name.removeprefix("./") == member.removeprefix("./")), None)
        if found is None:
            shown = ", ".join(sorted(files)[:SHOWN]) + (", …" if len(files) > SHOWN else "")
            message = f"member is {member}, and the archive has no such file: it has {shown or 'none'}"
            raise RefusedError(message)
        yield opened.enter_context(read(files[found]))


def fetch(binary: dict[str, Any], folder: Path) -> Path:
    """Fetch a program into a file beside its own.

    Args:
        binary: One of the option `binaries`.
        folder: Where.

    Returns:
        The file, which holds the program and may be run.

    Raises:
        RefusedError: It cannot be had, or is another than was pinned.
    """
    place = binary["url"] or binary["path"]
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".unfinished-")
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as target:
            if binary["url"]:
                with open_url(binary["url"], timeout=TIMEOUT) as source:
                    found = copy(source, target)
            else:
                with (folder / binary["incoming"]).open("rb") as source:
                    found = copy(source, target)
        if found != binary["sha256"]:
            message = (
                f"{place} has the SHA-256 {found}, and common_binaries says {binary['sha256']}: see which is right, "
                "and correct url or sha256"
            )
            raise RefusedError(message)
        if binary["member"]:
            descriptor, name = tempfile.mkstemp(dir=folder, prefix=".unfinished-")
            archive, path = path, Path(name)
            try:
                with os.fdopen(descriptor, "wb") as target, member_of(archive, binary["member"]) as source:
                    copy(source, target)
            finally:
                archive.unlink()
        path.chmod(0o755)
    except RefusedError:
        path.unlink(missing_ok=True)
        raise
    # urllib's errors, and those of archives, have no common parent but this.
    except Exception as error:
        path.unlink(missing_ok=True)
        message = f"{place} cannot be had: {error}"
        raise RefusedError(message) from error
    return path


def point(link: Path, target: Path) -> None:
    """Make a link, or have it name something else, at once.

    Args:
        link: Its path.
        target: What it is to name.
    """
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(link)


def fetch_all(binaries: list[dict[str, Any]], folder: Path) -> dict[str, Path]:
    """Fetch programs, all of them or none.

    Args:
        binaries: Those that are missing.
        folder: Where.

    Returns:
        What was fetched, by the name that it is to have.

    Raises:
        RefusedError: One cannot be had, or is another than was pinned.
    """
    fetched: dict[str, Path] = {}
    faults = []
    for binary in binaries:
        try:
            fetched[binary["file"]] = fetch(binary, folder)
        except RefusedError as error:
            faults.append(f"{binary['name']}: {error}.")
    if faults:
        for path in fetched.values():
            path.unlink()
        raise RefusedError(" ".join(faults))
    return fetched


def install(binaries: list[dict[str, Any]], folder: Path, links: Path, check_mode: bool) -> dict[str, Any]:
    """Install the programs, and remove what is no longer listed.

    Args:
        binaries: The option of that name.
        folder: Where the files are.
        links: Where the links are.
        check_mode: Whether to change nothing.

    Returns:
        What came of it.

    Raises:
        RefusedError: A program cannot be installed; then none is.
    """
    wanted = {links / binary["name"]: folder / binary["file"] for binary in binaries}
    ours = {link: link.readlink() for link in (*wanted, *links.glob("*")) if link.is_symlink()}
    ours = {link: target for link, target in ours.items() if target.parent == folder}
    if taken := [str(link) for link in wanted if os.path.lexists(link) and link not in ours]:
        message = f"{', '.join(taken)} is there, and not of common_binaries: remove it, or use another name."
        raise RefusedError(message)
    missing = [binary for binary in binaries if not (folder / binary["file"]).exists()]
    outdated = [link for link, target in wanted.items() if ours.get(link) != target]
    stale = sorted(ours.keys() - wanted.keys())
    extra = sorted({*folder.glob("*"), *folder.glob(".*")} - {*wanted.values()})
    if not check_mode and (binaries or extra):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name, path in fetch_all(missing, folder).items():
            path.replace(folder / name)
        for link in outdated:
            point(link, wanted[link])
        for path in [*stale, *extra]:
            path.unlink(missing_ok=True)
    return {
        "changed": bool(missing or outdated or stale or extra),
        "installed": [binary["name"] for binary in missing],
        "removed": [link.name for link in stale],
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "binaries": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "file": {"type": "str", "required": True},
                    "sha256": {"type": "str", "required": True},
                    "url": {"type": "str"},
                    "path": {"type": "str"},
                    "incoming": {"type": "str"},
                    "member": {"type": "str"},
                },
            },
            "folder": {"type": "path", "default": "/usr/local/lib/lvao-binaries"},
            "links": {"type": "path", "default": "/usr/local/bin"},
        },
        supports_check_mode=True,
    )
    folder, links = Path(module.params["folder"]), Path(module.params["links"])
    try:
        result = install(module.params["binaries"], folder, links, module.check_mode)
    except (OSError, RefusedError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
