"""The command `airflow` opens its files with its caller's rights, and hands them on as standard input and output."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

FILES = Path(__file__).parents[2] / "roles/airflow/files"
SPEC = importlib.util.spec_from_file_location("file_argument", FILES / "libexec/file_argument.py")
COMMAND = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(COMMAND)
# Says what it is told, and passes on what it reads.
SANDBOXED = '#!/bin/sh\necho "$@" >&2\nexec cat\n'


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Make a release with the program, and a sandbox that shows what comes to it."""
    release = tmp_path / "opt/releases/one"
    (release / "bin").mkdir(parents=True)
    (release / "libexec").mkdir()
    (tmp_path / "opt/current").symlink_to(release)
    shutil.copy(FILES / "libexec/file_argument.py", release / "libexec")
    for name, content in (("airflow", (FILES / "airflow").read_text()), ("airflow-sandboxed", SANDBOXED)):
        (release / "bin" / name).write_text(content)
        (release / "bin" / name).chmod(0o755)
    (tmp_path / "airflow").symlink_to(tmp_path / "opt/current/bin/airflow")
    for folder in [tmp_path, *tmp_path.parents[:3]]:
        folder.chmod(0o755)
    return tmp_path / "airflow"


def run(program: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run it, among the caller's files."""
    options = {"stdin": subprocess.DEVNULL, "cwd": program.parent} | options
    return subprocess.run([program, *arguments], text=True, capture_output=True, check=False, **options)


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
    command = ["bash", "-c", f"{program} variables import <(echo secret)"]
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
        (("variables", "import", "none.json"), "none.json: No such file or directory\n"),
        (("variables", "import", "."), "airflow: .: Is a directory\n"),
        (("pools", "export", "no/such.json"), "no/such.json: No such file or directory\n"),
    ],
)
def test_what_cannot_be_opened_is_said(program: Path, arguments: tuple[str, ...], fault: str) -> None:
    ended = run(program, *arguments)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.endswith(fault)


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
NOBODY = {"user": 65534, "group": 65534, "extra_groups": []}


@AS_ROOT
@pytest.mark.parametrize(("action", "path"), [("import", "/etc/shadow"), ("export", "/etc/lvao-test")])
def test_a_file_is_opened_with_the_callers_rights(program: Path, action: str, path: str) -> None:
    ended = run(program, "variables", action, path, **NOBODY)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.endswith(f"{path}: Permission denied\n")


@AS_ROOT
def test_who_is_not_root_goes_by_sudo(program: Path) -> None:
    ended = run(program, "dags", "list", **NOBODY)
    assert ended.stderr == f"-- {program.parent}/opt/current/bin/airflow-sandboxed dags list\n"


def test_sudo_lets_nobody_run_what_opens_files() -> None:
    """Root would open any: what sudoers names gets them as standard input and output."""
    rule = (FILES.parent / "templates/sudoers.j2").read_text().splitlines()[-1]
    assert rule.endswith("NOPASSWD: {{ airflow_current }}/bin/airflow-sandboxed")
