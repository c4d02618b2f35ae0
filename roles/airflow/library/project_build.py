#!/usr/bin/python
"""Ansible module: run a project's build command, with a bound."""

from __future__ import annotations

DOCUMENTATION = r"""
module: project_build
short_description: Run a project's build command, with a bound
description:
  - Runs a command in the project's folder before that is packed, such as C(dbt deps). A command that fails, or does
    not end in time, fails the task with its last words. What it has started ends with it.
  - It gets no variable of Ansible's, which may name the vault's password, and no input.
options:
  argv:
    description: The command and its arguments.
    type: list
    elements: str
    required: true
  chdir:
    description: The folder to run it in.
    type: path
    required: true
  path:
    description: Folders to look for programs in before those of E(PATH).
    type: list
    elements: path
    default: []
  timeout:
    description: How many seconds it may take.
    type: int
    required: true
  name:
    description: Variable that names the command, for messages.
    type: str
    required: true
author: the lvao-airflow maintainers
"""

EXAMPLES = r"""
- name: Install the packages of the dbt project
  project_build:
    argv: [dbt, deps, --project-dir, dbt]
    chdir: /srv/project
    path: [/srv/project/.venv/bin]
    timeout: 600
    name: airflow_release_build_command
  delegate_to: localhost
"""

RETURN = r"""
stdout:
  description: What it printed, errors included.
  type: str
  returned: success
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

LINES = 40


class BuildError(Exception):
    """The command cannot be run, fails or hangs; the message says so, with its last words."""


def environment(variables: Mapping[str, str], path: Sequence[str]) -> dict[str, str]:
    """Make the environment of the command.

    Args:
        variables: That of this process.
        path: Folders to look for programs in first.

    Returns:
        It, without what Ansible is told.
    """
    kept = {name: value for name, value in variables.items() if not name.startswith(("ANSIBLE_", "VAULT_"))}
    return kept | {"PATH": os.pathsep.join([*path, variables.get("PATH", os.defpath)])}


def last_words(said: str) -> str:
    """Shorten what a command said to its end, where errors are."""
    lines = said.rstrip().splitlines()
    left_out = [f"[… {len(lines) - LINES} lines are left out …]"] if len(lines) > LINES else []
    return "\n".join([*left_out, *lines[-LINES:]]) or "it said nothing"


def build(argv: Sequence[str], chdir: Path, variables: Mapping[str, str], timeout: float) -> str:
    """Run a command.

    Args:
        argv: The command and its arguments.
        chdir: The folder to run it in.
        variables: Its environment.
        timeout: How many seconds it may take.

    Returns:
        What it printed.

    Raises:
        BuildError: It is not there, fails or hangs.
    """
    shown = shlex.join(argv)
    # A path is one from the folder, as the command's own arguments are.
    program = str(chdir / argv[0]) if os.sep in argv[0] else argv[0]
    if not (found := shutil.which(program, path=variables["PATH"])):
        message = (
            f"{shown}: there is no program {argv[0]} in {variables['PATH']}; "
            "'bin/setup dags' installs those of the DAGs' packages"
        )
        raise BuildError(message)
    # In a file: what the command leaves running may hold a pipe open for ever.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603 - it is the project's own
            [found, *argv[1:]],
            cwd=chdir,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout)
            fault = f"ended with status {status}" if status > 0 else f"was ended by signal {-status}" if status else ""
        except subprocess.TimeoutExpired:
            fault = f"did not end within {timeout:g} seconds"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        said = output.read().decode(errors="replace")
    if fault:
        message = f"{shown} {fault}, in {chdir}. Its last words:\n{last_words(said)}"
        raise BuildError(message)
    return said


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "argv": {"type": "list", "elements": "str", "required": True},
            "chdir": {"type": "path", "required": True},
            "path": {"type": "list", "elements": "path", "default": []},
            "timeout": {"type": "int", "required": True},
            "name": {"type": "str", "required": True},
        },
    )
    variables = environment(os.environ, module.params["path"])
    try:
        said = build(module.params["argv"], Path(module.params["chdir"]), variables, module.params["timeout"])
    except (BuildError, OSError) as error:
        module.fail_json(msg=f"{module.params['name']}: {error}")
    module.exit_json(changed=False, stdout=said)


if __name__ == "__main__":
    main()
