#!/usr/bin/env python3
"""Tests the project's DAGs, in the environment of the servers: what each has to have, then the team's own tests.

`bin/dag_checks.py` does the first. The second are run by pytest, from the project's folder and with its settings; if
`test-postgresql` in `[tool.lvao]` names an environment variable, that leads to a PostgreSQL that is made for them.
"""

import json
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import with_release
from project import HERE, Project, ProjectError, find

PYTHON = HERE / ".venv-airflow/bin/python"
# What pytest says where there is no test.
NO_TESTS = 5
POSTGRESQL_PROGRAMS = ("initdb", "pg_ctl", "createdb")
# Debian keeps them from PATH.
POSTGRESQL_FOLDERS = Path("/usr/lib/postgresql")


class TestsError(Exception):
    """The tests cannot be run; the message says why, and what to do."""


def values_of(env_file: Path) -> dict[str, str]:
    """Read a file of environment variables as `make dev` does: NAME=value, taken as it is.

    Args:
        env_file: The file, which may be missing.

    Returns:
        The values by their names.
    """
    if not env_file.is_file():
        return {}
    lines = re.findall(r"^([A-Za-z_][A-Za-z0-9_]*)=(.*)$", env_file.read_text(), re.MULTILINE)
    return dict(lines)


def environment(project: Project, home: Path, caller: Mapping[str, str]) -> dict[str, str]:
    """Make the environment in which Airflow finds the project's DAGs and folders, and no setting of the caller's.

    Args:
        project: The project.
        home: A folder for Airflow's files.
        caller: The environment of this program.

    Returns:
        The environment.
    """
    # Settings of the caller's shell would decide what the tests find.
    others = {name: value for name, value in caller.items() if not name.startswith("AIRFLOW")}
    kept = with_release.environment(project, others)
    path = [str(project.dags), *filter(None, [kept.get("PYTHONPATH")])]
    return (
        kept
        | values_of(project.env_file)
        | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(project.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "PYTHONPATH": os.pathsep.join(path),
        }
    )


def postgresql_programs() -> Path:
    """Find the folder of PostgreSQL's programs.

    Returns:
        That of the newest version.

    Raises:
        TestsError: There is none.
    """
    folders = sorted(POSTGRESQL_FOLDERS.glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True)
    folders += [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    for folder in folders:
        if all((folder / program).exists() for program in POSTGRESQL_PROGRAMS):
            return folder
    raise TestsError(
        "test-postgresql in [tool.lvao] asks for a PostgreSQL, and initdb is not on this machine: "
        "install it (Debian's package: postgresql), then try again."
    )


def free_port() -> int:
    """Find a TCP port of the loopback that nothing listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@contextmanager
def postgresql() -> Iterator[str]:
    """Run a PostgreSQL of its own, which goes away with its data.

    Yields:
        Its address, with the name and the password of a superuser.

    Raises:
        TestsError: There is none on this machine, or it does not start.
    """
    programs, password, port = postgresql_programs(), secrets.token_hex(16), free_port()
    with tempfile.TemporaryDirectory(prefix="test-postgresql-") as folder:
        data, key, log = (Path(folder) / name for name in ("data", "password", "log"))
        key.write_text(password)
        # It refuses to run as root.
        user = None
        if os.geteuid() == 0:
            user = next(entry for entry in pwd.getpwall() if entry.pw_name in ("postgres", "nobody"))
            for path in (folder, key):
                os.chown(path, user.pw_uid, user.pw_gid)

        def run(program: str, *arguments: str | Path) -> None:
            ended = subprocess.run(  # noqa: S603 - of Debian
                [programs / program, *arguments],
                cwd="/",
                env=os.environ | {"PGPASSWORD": password, "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                # What it starts keeps a pipe open.
                stdout=(said := log.with_name("said")).open("w"),
                stderr=subprocess.STDOUT,
                check=False,
                **({"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}),
            )
            if ended.returncode:
                words = said.read_text() + (log.read_text() if log.exists() else "")
                raise TestsError(f"{program} of the tests' PostgreSQL fails:\n{words}")

        run("initdb", "--pgdata", data, "--username=test", f"--pwfile={key}", "--auth=scram-sha-256", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        run("pg_ctl", "start", "--wait", "--pgdata", data, "--log", log, "--options", options)
        try:
            run("createdb", "--host=127.0.0.1", f"--port={port}", "--username=test", "test")
            yield f"postgresql://test:{password}@127.0.0.1:{port}/test"
        finally:
            run("pg_ctl", "stop", "--pgdata", data, "--mode=immediate")


def run_tests(project: Project, env: dict[str, str], options: list[str]) -> bool:
    """Run the team's own tests.

    Args:
        project: The project.
        env: The environment.
        options: For pytest.

    Returns:
        Whether they pass, as they do if there are none.

    Raises:
        TestsError: What they need is not there.
    """
    if not project.tests.is_dir():
        print(
            f"test-dags: the project has no tests: tests in [tool.lvao] would name their folder, now {project.tests}."
        )
        return True
    if not PYTHON.with_name("pytest").exists():
        raise TestsError(
            f"The project has tests, and no pytest: add it to the group {project.test_group} of "
            f"{project.folder}/pyproject.toml, and run 'make lock'."
        )
    command = [PYTHON, "-m", "pytest", "--quiet", *options, project.tests]
    ended = subprocess.run(command, cwd=project.folder, env=env, check=False)  # noqa: S603 - the caller's options
    return ended.returncode in (0, NO_TESTS)


def main(options: list[str]) -> int:
    """Test the DAGs.

    Args:
        options: For pytest.

    Returns:
        The exit status.
    """
    try:
        project = find()
        with tempfile.TemporaryDirectory(prefix="dag-tests-") as home:
            env = environment(project, Path(home), os.environ)
            stand_ins = Path(home) / "stand-ins.json"
            command = [PYTHON, HERE / "bin/dag_checks.py", "--stand-ins", stand_ins]
            passed = subprocess.run(command, env=env, check=False).returncode == 0  # noqa: S603 - our own
            if stand_ins.exists():
                env |= json.loads(stand_ins.read_text())
            if project.test_postgresql and project.tests.is_dir():
                with postgresql() as address:
                    passed &= run_tests(project, env | {project.test_postgresql: address}, options)
            else:
                passed &= run_tests(project, env, options)
    except (ProjectError, TestsError) as error:
        print(f"test-dags: {error}", file=sys.stderr)
        return 1
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
