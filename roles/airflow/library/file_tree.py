#!/usr/bin/python
"""Ansible module: write the files of a tree by one run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_tree
short_description: Write the files of a tree by one run
description:
  - Writes files below a directory, where M(ansible.builtin.copy) and M(ansible.builtin.template) take several round
    trips for each. Directories are made as needed, closed to others where all files directly in them are.
  - Each file is replaced as a whole, so that nobody reads half of one.
  - What files hold shows in the difference that C(--diff) asks for; a task whose files are secret sets C(no_log).
options:
  path:
    description: The directory that the tree is below. One that is missing is made, closed to others.
    type: path
    required: true
  directories:
    description: Directories right below O(path) that hold the files.
    type: list
    elements: str
    required: true
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Path of the file below O(path).
        type: str
        required: true
      content:
        description: What it holds.
        type: str
        required: true
      mode:
        description: Its permissions, in octal digits.
        type: str
        default: "0644"
  purge:
    description: Whether to remove other files from O(directories).
    type: bool
    default: false
author: the lvao-airflow maintainers
"""

EXAMPLES = r"""
- name: Write the units
  file_tree:
    path: /opt/airflow/next
    directories: [systemd]
    files:
      - path: systemd/lvao-airflow-webserver.service
        content: "{{ lookup('ansible.builtin.template', 'webserver.service.j2') }}"
    purge: true
"""

RETURN = r"""
digests:
  description: SHA-256, in hexadecimal, of each file in the directories, by its path; in check mode, as it would be.
  type: dict
  returned: always
"""

import hashlib
import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule


class File(NamedTuple):
    """What a file is to be, or is."""

    content: bytes
    mode: int


def wanted_files(directories: list[str], files: list[dict[str, str]]) -> dict[str, File]:
    """Read what is asked for.

    Args:
        directories: Names of the directories that the files are in.
        files: The option of that name.

    Returns:
        The files by their paths.

    Raises:
        ValueError: A path or a mode cannot be.
    """
    wanted = {}
    for file in files:
        parts = PurePosixPath(file["path"]).parts
        if len(parts) == 1 or ".." in parts or parts[0] not in directories:
            message = f"the path {file['path']} is not in one of {', '.join(directories)}"
            raise ValueError(message)
        try:
            mode = int(file["mode"], 8)
        except ValueError as error:
            message = f"the mode of {file['path']} is {file['mode']}: it must be octal digits, such as 0644"
            raise ValueError(message) from error
        wanted[file["path"]] = File(file["content"].encode(), mode)
    return wanted


def found_files(root: Path, directories: list[str]) -> dict[str, File]:
    """Read what is there.

    Args:
        root: Where the tree is.
        directories: Names of the directories to look into.

    Returns:
        The files by their paths.

    Raises:
        OSError: A file cannot be read.
    """
    paths = [path for name in directories for path in (root / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): File(path.read_bytes(), path.stat().st_mode & 0o7777) for path in paths}


def directory_modes(files: dict[str, File]) -> dict[str, int]:
    """Say how closed each directory of some files is, the upper ones first.

    Args:
        files: By their paths.

    Returns:
        The permissions by the directories' paths: closed to others where all files directly in them are.
    """
    modes: dict[str, int] = {}
    for path, file in files.items():
        parent, *above = [str(directory) for directory in PurePosixPath(path).parents][:-1]
        modes[parent] = modes.get(parent, 0o700) | (0o755 if file.mode & 0o077 else 0o700)
        for directory in above:
            modes.setdefault(directory, 0)
    # One that holds directories alone is open, for they close themselves.
    return {path: modes[path] or 0o755 for path in sorted(modes)}


def write(path: Path, file: File) -> None:
    """Replace a file, or make it.

    Args:
        path: Its path, in a directory that is there.
        file: What it is to be.

    Raises:
        OSError: It cannot be written.
    """
    descriptor, beside = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(file.content)
        Path(beside).chmod(file.mode)
        Path(beside).replace(path)
    except OSError:
        Path(beside).unlink()
        raise


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "directories": {"type": "list", "elements": "str", "required": True},
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "str", "required": True},
                    "content": {"type": "str", "required": True},
                    "mode": {"type": "str", "default": "0644"},
                },
            },
            "purge": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    root, directories = Path(module.params["path"]), module.params["directories"]
    try:
        wanted = wanted_files(directories, module.params["files"])
        found = found_files(root, directories)
        extra = sorted(found.keys() - wanted.keys()) if module.params["purge"] else []
        stale = [path for path in sorted(wanted) if found.get(path) != wanted[path]]
        after = {path: file for path, file in (found | wanted).items() if path not in extra}
        modes = directory_modes(after)
        odd = [
            path
            for path, mode in modes.items()
            if not (root / path).is_dir() or (root / path).stat().st_mode & 0o7777 != mode
        ]
        if not module.check_mode:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in odd:
                (root / path).mkdir(exist_ok=True)
                (root / path).chmod(modes[path])
            for path in stale:
                write(root / path, wanted[path])
            for path in extra:
                (root / path).unlink()
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))

    def shown(path: str, files: dict[str, File]) -> str:
        return files[path].content.decode(errors="replace") if path in files else ""

    module.exit_json(
        changed=bool(stale or extra or odd),
        digests={path: hashlib.sha256(file.content).hexdigest() for path, file in sorted(after.items())},
        diff=[
            {
                "before_header": str(root / path),
                "after_header": str(root / path),
                "before": shown(path, found),
                "after": shown(path, after),
            }
            for path in stale + extra
        ],
    )


if __name__ == "__main__":
    main()
