"""The command `airflow` opens its files with its caller's rights, and hands them on as standard input and output."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml

FILES = Path(__file__).parents[2] / "roles/airflow/files"


def load(name: str) -> ModuleType:
    """Load a program of the release's as a module."""
    spec = importlib.util.spec_from_file_location(name, FILES / f"libexec/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMMAND, ALLOWED = load("file_argument"), load("allowed")
DEFAULT = yaml.safe_load((FILES.parent / "defaults/main.yml").read_text())["airflow_command_allowed"]
# Says what it is told, and passes on what it reads.
SANDBOXED = '#!/bin/sh\necho "$@" >&2\nexec cat\n'


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Make a release with the program, and a sandbox that shows what comes to it."""
    release = tmp_path / "opt/releases/one"
    (release / "bin").mkdir(parents=True)
    (release / "libexec").mkdir()
    (release / "etc").mkdir()
    (release / "etc/command_allowed.json").write_text('["dags list"]')
    (tmp_path / "opt/current").symlink_to(release)
    for name in ("file_argument", "allowed"):
        shutil.copy(FILES / f"libexec/{name}.py", release / "libexec")
    programs = {name: (FILES / name).read_text() for name in ("airflow", "airflow-allowed")}
    for name, content in (programs | {"airflow-sandboxed": SANDBOXED}).items():
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
    assert ended.stderr == f"-- {program.parent}/opt/current/bin/airflow-allowed dags list\n"


def test_sudo_lets_nobody_run_what_opens_files() -> None:
    """Root would open any: what sudoers names gets them as standard input and output."""
    rule = (FILES.parent / "templates/sudoers.j2").read_text().splitlines()[-1]
    assert rule.endswith("NOPASSWD: {{ airflow_current }}/bin/airflow-allowed")


def test_who_comes_by_sudo_gets_what_the_site_allows(program: Path) -> None:
    allowed = program.parent / "opt/current/bin/airflow-allowed"
    assert run(allowed, "dags", "list", "-o", "json").stderr == "dags list -o json\n"
    refused = run(allowed, "connections", "export", "-")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "airflow: `airflow connections export` is for root alone: use `sudo airflow`, if you may. "
        "Your group may run what airflow_command_allowed lists, which a deploy changes: dags list.\n"
    )


def test_without_the_list_nobody_gets_by(program: Path) -> None:
    (program.parent / "opt/current/etc/command_allowed.json").unlink()
    ended = run(program.parent / "opt/current/bin/airflow-allowed", "dags", "list")
    assert ended.returncode == 1
    assert "dags list\n" not in ended.stderr


@pytest.mark.parametrize(
    "line",
    [
        "",
        "-h",
        "connections -h",
        "connections export --help",
        "version",
        "dags list -o json --columns dag_id -v",
        "dags trigger one --conf {} -l 2026-01-01",
        "dags list-runs one -s 2026-01-01",
        "dags show one",
        "tasks clear one -t two -y",
        "pools set one 2 three",
    ],
)
def test_the_group_operates_dags(line: str) -> None:
    assert ALLOWED.refusal(line.split(), [*DEFAULT, "pools"]) is None


@pytest.mark.parametrize(
    "line",
    [
        "users create -u me -r Admin",
        "db shell",
        "config get-value database sql_alchemy_conn",
        "connections export - -h",
        "connections",
        "standalone",
        "variables set one -h",
        "-v dags list",
        "-- dags list",
        "dags",
        "dags -v list",
        "dags -- list",
        "dags list-",
        "dags tes",
        "tasks test one two --post-mortem",
        "rotate-fernet-key -h -h",
        "-h standalone",
    ],
)
def test_all_else_is_for_root(line: str) -> None:
    assert "is for root alone" in ALLOWED.refusal(line.split(), DEFAULT)


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("dags list -l", "-l"),
        ("dags list -vl", "-l"),
        ("dags list --local", "--local"),
        ("dags list --l", "--local"),
        ("dags list -- --loc", "--local"),
        ("dags list-import-errors -o json -l", "-l"),
        ("dags show one --sav=x.png", "--save"),
        ("dags show one -sx.png", "-s"),
        ("dags show-dependencies --imgcat", "--imgcat"),
        ("tasks clear . -yR", "-R"),
        ("tasks test one two -m", "-m"),
        ("dags test one --dagfile /dev/stdin", "--dagfile-path"),
    ],
)
def test_an_option_that_does_more_is_for_root(line: str, option: str) -> None:
    assert f"the option {option} of" in ALLOWED.refusal(line.split(), [*DEFAULT, "tasks", "dags test"])
