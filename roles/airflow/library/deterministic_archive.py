#!/usr/bin/python
"""Ansible module: pack a folder so that equal content gives equal bytes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deterministic_archive
short_description: Pack a folder so that equal content gives equal bytes
description:
  - Writes an uncompressed tar archive of a folder, with members in sorted order and without times or owners,
    so that its digest says whether the content changed. M(community.general.archive) records modification times.
options:
  src:
    description: The folder to pack. The archive holds it under the name O(root).
    type: path
    required: true
  dest:
    description: The archive to write. Its parent folder is made if missing.
    type: path
    required: true
  root:
    description: Name of the folder inside the archive.
    type: str
    default: dags
  exclude:
    description: Names of files and folders to leave out, at any depth; shell patterns.
    type: list
    elements: str
    default: []
author: the lvao-airflow maintainers
"""

EXAMPLES = r"""
- name: Pack the DAGs
  deterministic_archive:
    src: dags
    dest: /tmp/dags.tar
    exclude: [tests, __pycache__]
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
import tarfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule


def pack(src: Path, root: str, exclude: list[str]) -> bytes:
    """Pack a folder.

    Args:
        src: The folder to pack.
        root: Name of the folder inside the archive.
        exclude: Shell patterns of names to leave out, at any depth.

    Returns:
        The archive's bytes: the same for the same names, contents and executable bits.

    Raises:
        OSError: A file cannot be read.
        ValueError: Something is neither a file, a folder nor a symbolic link.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, src, root, exclude)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, path: Path, name: str, exclude: list[str]) -> None:
    """Add a path and what is below it to an archive, under a name, without times and owners."""
    member = tarfile.TarInfo(name)
    if path.is_symlink():
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
        archive.addfile(member)
    elif path.is_dir():
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(member)
        for child in sorted(path.iterdir()):
            if not any(fnmatch.fnmatch(child.name, pattern) for pattern in exclude):
                _add(archive, child, f"{name}/{child.name}", exclude)
    elif path.is_file():
        content = path.read_bytes()
        member.size, member.mode = len(content), 0o755 if path.stat().st_mode & 0o100 else 0o644
        archive.addfile(member, io.BytesIO(content))
    else:
        message = f"{path} is neither a file, a folder nor a symbolic link"
        raise ValueError(message)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "src": {"type": "path", "required": True},
            "dest": {"type": "path", "required": True},
            "root": {"type": "str", "default": "dags"},
            "exclude": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    src, dest = Path(module.params["src"]), Path(module.params["dest"])
    if not src.is_dir():
        module.fail_json(msg=f"{src} is not a folder")
    try:
        content = pack(src, module.params["root"], module.params["exclude"])
        changed = not dest.is_file() or dest.read_bytes() != content
        if changed and not module.check_mode:
            dest.parent.mkdir(parents=True, exist_ok=True)
            dest.write_bytes(content)
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, digest=hashlib.sha256(content).hexdigest())


if __name__ == "__main__":
    main()
