#!/usr/bin/python
"""Ansible module: hold the lock of an environment, so that one playbook at a time changes it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deploy_lock
short_description: Hold the lock of an environment, so that one playbook at a time changes it
description:
  - Keeps a file that names the ansible-playbook process which may change the environment, and until when.
  - The lock belongs to the run, not to what the host should be. To take, to renew and to release it is no change;
    to end the lock of another process is one.
  - The action plugin of the same name says who asks, and takes over at once what a dead process of its machine left.
options:
  path:
    description: The lock file. Its folder is made where it is missing. Others must not be able to write there.
    type: path
    required: true
  state:
    description: Whether this process wants the lock, or wants it no more.
    type: str
    choices: [present, absent]
    default: present
  lease:
    description: For how many seconds the lock is taken or renewed, by the clock of the host that keeps it.
    type: int
    default: 1800
  renew:
    description: With O(state=present), whether this process has taken the lock before, and so must still hold it.
    type: bool
    default: false
  force:
    description: With O(state=absent), whether to remove the lock whoever holds it.
    type: bool
    default: false
  hint:
    description: For the error that says who holds the lock, the command that breaks it.
    type: str
    default: deploy_lock with state=absent and force=true
  holder:
    description: Who asks. The action plugin sets it.
    type: dict
    required: true
    options:
      who:
        description: A user, at a machine.
        type: str
        required: true
      what:
        description: The playbooks that this user runs there.
        type: str
        required: true
      process:
        description: The process that runs them.
        type: dict
        required: true
        options:
          id:
            description: Its number.
            type: int
            required: true
          started:
            description: When it started. Numbers are used again, but not with the same start.
            type: str
            required: true
          kernel:
            description: Which boot of which machine, and which namespace of it, the number counts in.
            type: str
            required: true
  ended:
    description: The process, as the lock names it, that is known to have ended. The action plugin sets it.
    type: dict
attributes:
  check_mode:
    description: Says what would be, and writes nothing.
    support: full
author: the lvao-airflow maintainers
"""

EXAMPLES = r"""
- name: Take the lock
  deploy_lock:
    path: /run/deploys/lock.json

- name: Renew it, or fail if another has taken it meanwhile, even if that one is done with it
  deploy_lock:
    path: /run/deploys/lock.json
    renew: true

- name: Release it
  deploy_lock:
    path: /run/deploys/lock.json
    state: absent
"""

RETURN = r"""
held_by:
  description: The lock of another process, which is why the module failed. Only the action plugin sees it.
  type: dict
  returned: when another holds the lock
taken:
  description: Whether this process has taken the lock, though it may have lost it.
  type: bool
  returned: with O(state=present), unless in check mode
previous:
  description: The lock of another process that was taken over or removed; empty if it was damaged.
  type: dict
  returned: changed
"""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from ansible.module_utils.basic import AnsibleModule

TIMES = "%Y-%m-%dT%H:%M:%SZ"
TEXTS = ("who", "what", "since", "until")


class LostError(Exception):
    """This process held the lock, and nobody does now."""


class OpenFolderError(OSError):
    """Others may put a lock into the folder."""

    def __init__(self, folder: Path) -> None:
        """Name the folder."""
        super().__init__(errno.EPERM, f"others may write in {folder}, and so hold the lock or forge its owner")


class HeldError(Exception):
    """Another process holds the lock: `record` is what the lock says."""

    def __init__(self, record: dict) -> None:
        """Keep what the lock says."""
        super().__init__(describe(record))
        self.record = record


def describe(record: dict) -> str:
    """Say whose a lock is.

    Args:
        record: What the lock says, or nothing for one that is damaged.

    Returns:
        A part of a sentence.
    """
    if not record:
        return "somebody, whose name is not readable"
    return "{who} for {what} (process {process[id]}) since {since}".format(**record)


def make_folder(folder: Path) -> None:
    """Make the lock's folder, unless it is there.

    Args:
        folder: Which one.

    Raises:
        OpenFolderError: Others may write there.
        OSError: It cannot be made.
    """
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o755)  # whatever the umask
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise OpenFolderError(folder)


@contextmanager
def opened(path: Path, create: bool) -> Iterator[BinaryIO]:
    """Open the lock file, with nobody else at it.

    Args:
        path: The file.
        create: Whether to make a missing one.

    Yields:
        The open file.

    Raises:
        FileNotFoundError: It is missing, or its folder is.
        OSError: It cannot be opened, or others may write in its folder.
    """
    if create:
        make_folder(path.parent)
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    while True:
        with os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever had it open before may have removed it, and a next one may have made another.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False)):
                    yield file
                    return


def read(file: BinaryIO) -> dict | None:
    """Read a lock.

    Args:
        file: The open file.

    Returns:
        What it says, without entries if that is damaged; None if nobody holds it.
    """
    content = file.read()
    if not content:
        return None
    try:
        record = json.loads(content)
        whole = all(isinstance(record[name], str) for name in TEXTS) and isinstance(record["process"]["id"], int)
    except (ValueError, LookupError, TypeError):
        whole = False
    return record if whole else {}


def why_stale(record: dict, now: str, ended: dict | None) -> str:
    """Say why a lock counts no more.

    Args:
        record: What the lock says.
        now: The present time.
        ended: The process that is known to have ended.

    Returns:
        The reason, or nothing if the lock counts.
    """
    if not record:
        return "its lock file was damaged"
    if record["process"] == ended:
        return "that process ended without releasing it"
    if record["until"] <= now:
        return f"its lease ended at {record['until']}"
    return ""


def take(
    path: Path, holder: dict, lease: int | None, ended: dict | None = None, renew: bool = False
) -> tuple[dict, str]:
    """Take the lock, renew it, or take it over.

    Args:
        path: The lock file.
        holder: Who asks.
        lease: For how many seconds; None to write nothing.
        ended: The process that is known to have ended.
        renew: Whether the process must hold it already.

    Returns:
        The lock of another process that was taken over, and why; nothing twice if none was.

    Raises:
        HeldError: Another process holds it.
        LostError: It is to be renewed, and nobody holds it.
        OSError: The file cannot be opened, or not be written.
    """
    time = datetime.now(UTC)
    now, until = time.strftime(TIMES), (time + timedelta(seconds=lease or 0)).strftime(TIMES)
    try:
        with opened(path, create=lease is not None) as file:
            record = read(file)
            own = bool(record) and record["process"] == holder["process"]
            if renew and not own and not record:
                raise LostError
            # Of whoever has followed this process, even a stale lock is another's.
            why = "" if own or renew or record is None else why_stale(record, now, ended)
            if not (own or why or record is None):
                raise HeldError(record)
            if lease is not None:
                wanted = holder | {"since": record["since"] if own else now, "until": until}
                file.seek(0)
                file.truncate()
                file.write(json.dumps(wanted, indent=2).encode() + b"\n")
            return (record or {}, why) if why else ({}, "")
    except FileNotFoundError:
        if lease is not None:
            raise
        return {}, ""


def release(path: Path, process: dict | None, dry: bool = False) -> dict | None:
    """Remove the lock.

    Args:
        path: The lock file.
        process: The process that must hold it; None removes any lock.
        dry: Whether to remove nothing.

    Returns:
        What the lock said, or None if it stays or was not there.

    Raises:
        OSError: The file cannot be opened, or not be removed.
    """
    try:
        with opened(path, create=False) as file:
            record = read(file)
            if process is not None and (not record or record["process"] != process):
                return None
            if not dry:
                path.unlink()
            return record
    except FileNotFoundError:
        return None


def main() -> None:
    """Run the module."""
    text, number = {"type": "str", "required": True}, {"type": "int", "required": True}
    process = {"id": number, "started": text, "kernel": text}
    holder = {"who": text, "what": text, "process": {"type": "dict", "required": True, "options": process}}
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "lease": {"type": "int", "default": 1800},
            "renew": {"type": "bool", "default": False},
            "force": {"type": "bool", "default": False},
            "hint": {"type": "str", "default": "deploy_lock with state=absent and force=true"},
            "holder": {"type": "dict", "required": True, "options": holder},
            "ended": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    wanted, dry = module.params, module.check_mode
    path, asks = Path(wanted["path"]), wanted["holder"]
    try:
        if wanted["state"] == "present":
            previous, why = take(path, asks, None if dry else wanted["lease"], wanted["ended"], wanted["renew"])
            if why:
                module.warn(f"Took over the lock of {describe(previous)}: {why}.")
            module.exit_json(changed=bool(why), taken=not dry, **({"previous": previous} if why else {}))
        removed = release(path, None if wanted["force"] else asks["process"], dry)
        if wanted["force"] and removed is not None:
            module.exit_json(changed=True, previous=removed, msg=f"Broke the lock of {describe(removed)}.")
        module.exit_json(changed=False, msg="Nobody holds the lock." if removed is None else "Released the lock.")
    except HeldError as held:
        module.fail_json(
            msg=f"Locked by {held}: wait until that is over, or, if it hangs or its machine is gone, "
            f"break the lock with '{wanted['hint']}'.",
            held_by=held.record,
            taken=wanted["renew"],
        )
    except LostError:
        module.fail_json(
            msg="This run has lost the lock: it was broken, or another run took it over and is done. "
            "What that one did stays as it is. Run this again, if it is still wanted.",
            taken=True,
        )
    except OSError as error:
        module.fail_json(msg=f"The lock {path} cannot be used: {error.strerror}.")


if __name__ == "__main__":
    main()
