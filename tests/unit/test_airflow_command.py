"""The command `airflow` opens its files with the rights of whoever calls it, and hands them on as standard input and output."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/airflow/files/airflow_as_caller.py"
SPEC = importlib.util.spec_from_file_location("airflow_as_caller", PROGRAM)
COMMAND = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(COMMAND)
# Says what it is told, and passes on what it reads.
SANDBOXED = '#!/bin/sh\necho "$@" >&2\nexec cat\n'


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Make a release with the program, and a sandbox that shows what comes to it."""
    folder = tmp_path / "opt/releases/one/bin"
    folder.mkdir(parents=True)
    (tmp_path / "opt/current").symlink_to(folder.parent)
    for name, content in (("airflow", PROGRAM.read_text()), ("airflow-sandboxed", SANDBOXED)):
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    (tmp_path / "airflow").symlink_to(tmp_path / "opt/current/bin/airflow")
    return tmp_path / "airflow"


def run(program: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run it, among the caller's files."""
    command = [sys.executable, "-I", program, *arguments]
    options = {"stdin": subprocess.DEVNULL, "cwd": program.parent} | options
    return subprocess.run(command, text=True, capture_output=True, check=False, **options)


def run_as_nobody(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it as a user without rights, who may not even read the tests' Python."""
    for folder in [program.parent, *program.parent.parents[:3]]:
        folder.chmod(0o755)
    code = (
        "import errno, os, pathlib, stat, sys, typing; _, path, *arguments = sys.argv; sys.argv[:] = [path, *arguments];"
        "source = compile(open(path).read(), path, 'exec'); os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        "exec(source, {'__name__': '__main__', '__file__': path})"
    )
    command = [sys.executable, "-I", "-c", code, program, *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, text=True, capture_output=True, check=False)


@pytest.fixture(autouse=True)
def _sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give whoever runs the tests a sudo that shows what comes to it."""
    (tmp_path / "sudo").write_text(SANDBOXED)
    (tmp_path / "sudo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("variables import FILE", 2),
        ("variables import -a skip FILE", 4),
        ("variables import --action-on-existing-key=skip -v FILE", 4),
        ("connections export --file-f yaml FILE", 4),
        ("connections export FILE --format yaml", 2),
        ("connections import --overwrite FILE", 3),
        ("connections import -- FILE", 3),
        ("pools export -o json FILE", 4),
        ("users export -", 2),
        ("variables import -h", None),
        ("variables import --", None),
        ("variables get import", None),
        ("dags list", None),
        ("", None),
    ],
)
def test_the_file_is_found_among_the_arguments(line: str, expected: int | None) -> None:
    assert COMMAND.file_argument(line.split()) == expected


def test_a_file_to_import_is_standard_input(program: Path) -> None:
    (program.parent / "some vars.json").write_text("{}")
    ended = run(program, "variables", "import", "./some vars.json")
    assert (ended.returncode, ended.stdout) == (0, "{}")
    assert ended.stderr.endswith("variables import /dev/stdin/some vars.json\n")


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input_stays_what_it_is(program: Path, name: str) -> None:
    ended = run(program, "pools", "import", name, stdin=None, input="piped")
    assert ended.stdout == "piped"
    assert ended.stderr.endswith("pools import /dev/stdin\n")


def test_a_process_substitution_is_read(program: Path) -> None:
    command = ["bash", "-c", f"exec {sys.executable} -I {program} variables import <(echo secret)"]
    assert subprocess.run(command, text=True, capture_output=True, check=True).stdout == "secret\n"


def test_a_file_to_export_is_standard_output_and_its_owners_alone(program: Path) -> None:
    ended = run(program, "connections", "export", "out.json", stdin=None, input="exported", umask=0)
    assert (ended.returncode, ended.stdout) == (0, "")
    out = program.parent / "out.json"
    assert (out.read_text(), out.stat().st_mode & 0o777) == ("exported", 0o600)
    assert ended.stderr.endswith("connections export /dev/stdout/out.json\n")
    assert run(program, "connections", "export", "-", stdin=None, input="shown").stdout == "shown"


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("variables", "import", "none.json"), "airflow: none.json: No such file or directory\n"),
        (("variables", "import", "."), "airflow: .: Is a directory\n"),
        (("pools", "export", "no/such.json"), "airflow: no/such.json: No such file or directory\n"),
    ],
)
def test_what_cannot_be_opened_is_said(program: Path, arguments: tuple[str, ...], fault: str) -> None:
    ended = run(program, *arguments)
    assert (ended.returncode, ended.stderr) == (1, fault)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
@pytest.mark.parametrize(("action", "path"), [("import", "/etc/shadow"), ("export", "/etc/lvao-test")])
def test_a_file_is_opened_with_the_callers_rights(program: Path, action: str, path: str) -> None:
    ended = run_as_nobody(program, "variables", action, path)
    assert (ended.returncode, ended.stderr) == (1, f"airflow: {path}: Permission denied\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_who_is_not_root_goes_by_sudo(program: Path) -> None:
    ended = run_as_nobody(program, "dags", "list")
    assert ended.stderr == f"-- {program.parent}/opt/current/bin/airflow-sandboxed dags list\n"


def test_root_opens_nothing_in_the_name_of_others() -> None:
    """What sudo lets the group run opens no file: the program that does is not what sudoers names."""
    role = PROGRAM.parents[1]
    rule = (role / "templates/sudoers.j2").read_text().splitlines()[-1]
    assert rule.endswith("NOPASSWD: {{ airflow_current }}/bin/airflow-sandboxed")
