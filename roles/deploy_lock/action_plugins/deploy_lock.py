"""Ansible action: tell the module `deploy_lock` who runs the playbook, and which dead process it may follow."""

from __future__ import annotations

import getpass
import multiprocessing
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.action import ActionBase


def name_kernel() -> str:
    """Name what the numbers of processes count in.

    Containers of one machine share its boot, and machines made from one image share their machine id.

    Returns:
        The boot and, where there are such, the namespace; nothing if the machine does not say.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        pass  # no Linux
    try:
        return subprocess.check_output(["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def look_up(process: int) -> tuple[str, str]:
    """Look up a process of this machine.

    Args:
        process: Its number.

    Returns:
        Its state, which starts with Z if it only waits for its parent to notice its end, and its start;
        nothing twice if that is not to be seen.
    """
    return read_process(process) if Path("/proc/self/stat").exists() else list_processes().get(str(process), ("", ""))


def read_process(process: int) -> tuple[str, str]:
    """Look up a process where the kernel shows them as files; see `look_up`."""
    try:
        # The name, in parentheses, may hold spaces and parentheses itself.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]


def list_processes() -> dict[str, tuple[str, str]]:
    """List the processes where a command shows them; see `look_up`."""
    try:
        lines = subprocess.check_output(
            ["/bin/ps", "-A", "-o", "pid=", "-o", "state=", "-o", "lstart="],
            env={"LC_ALL": "C", "TZ": "UTC"},  # one start, one text
            text=True,
        ).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return {}
    rows = (line.split(maxsplit=2) for line in lines)
    return {number: (state, started.strip()) for number, state, started in rows}


def find_holder() -> dict[str, Any]:
    """Find out who runs this playbook.

    Returns:
        What the module takes as `holder`.
    """
    # A task runs in a worker: it is the worker's parent that lasts as long as the playbook.
    parent = multiprocessing.parent_process()
    process = parent.pid if parent and parent.pid else os.getpid()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return {
        "who": f"{user}@{socket.gethostname()}",
        "what": " ".join(context.CLIARGS.get("args") or ["a playbook"]),
        "process": {"id": process, "started": look_up(process)[1], "kernel": name_kernel()},
    }


def has_ended(record: dict[str, Any], holder: dict[str, Any]) -> bool:
    """Tell whether the process that a lock names is known to have ended.

    Args:
        record: What the lock says.
        holder: Who runs this playbook.

    Returns:
        False if it lives, or if this machine cannot know.
    """
    process, kernel = record["process"], holder["process"]["kernel"]
    # A virtual machine that was started from another's snapshot shares its boot, but seldom its name.
    same_machine = record["who"].rpartition("@")[2] == holder["who"].rpartition("@")[2]
    if not kernel or process.get("kernel") != kernel or not same_machine:
        return False
    try:
        os.kill(process["id"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's, which lives
    state, started = look_up(process["id"])
    return state.startswith("Z") or bool(started and process.get("started") and started != process["started"])


class ActionModule(ActionBase):
    """Call the module as the process that runs the playbook."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Take or release the lock.

        Args:
            tmp: Not used.
            task_vars: The variables of the task.

        Returns:
            The module's result.
        """
        super().run(tmp, task_vars)
        holder = find_holder()
        arguments = self._task.args | {"holder": holder}
        result = self._execute_module(module_args=arguments, task_vars=task_vars)
        record = result.pop("held_by", None)  # the error says it in words
        if record and has_ended(record, holder):
            # The module compares once more: another may have been faster.
            arguments["ended"] = record["process"]
            result = self._execute_module(module_args=arguments, task_vars=task_vars)
            result.pop("held_by", None)
        return result
