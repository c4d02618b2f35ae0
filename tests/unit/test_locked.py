"""How a lock is read, and which Python it is for."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bin"))
from locked import LockError, parse, pythons, source_files, with_paths
from project import Project

LOCK = """# Made by `make lock`. Do not edit.
# for Python >=3.11
app @ ./app ; python_full_version < '3.14'
one==1.0 ; sys_platform != 'win32' \\
    --hash=sha256:{a} \\
    --hash=sha256:{b}
other @ git+ssh://git@git.lvao.test/other@0123456
two[extra]==2.0 \\
    --hash=sha256:{a}
""".format(a="a" * 64, b="b" * 64)


def project(folder: Path, python: str = "", requires: str = "") -> Project:
    """A project of which only the Python and the DAGs matter."""
    names = ("dags", "tests", "requirements", "env_file")
    paths = {name: folder / name for name in names}
    known = {"python": python, "requires_python": requires}
    return Project(folder=folder, group="airflow", test_group="dag-tests", **paths, **known)


def test_each_package_is_read_with_its_source_and_hashes() -> None:
    app, one, other, two = parse(LOCK)
    assert (app.name, app.path, app.marker) == ("app", "./app", "python_full_version < '3.14'")
    assert (one.name, one.version, one.marker) == ("one", "1.0", "sys_platform != 'win32'")
    assert one.hashes == ("a" * 64, "b" * 64)
    assert (other.name, other.path, other.remote) == ("other", "", True)
    assert (two.name, two.version, two.source) == ("two", "2.0", "")


def test_a_line_that_names_no_package_is_refused() -> None:
    with pytest.raises(LockError, match="names no package and version: --index-url"):
        list(parse("--index-url https://index.lvao.test\n"))


def test_folders_are_named_from_the_project(tmp_path: Path) -> None:
    text = f"-e file://{tmp_path}/web%20app ; python_version < '3.13'\nlib\n../x @ ../x\nkept==1.0 \\\n    --hash=a\n"
    packages = [
        {"name": "Web_App", "directory": {"path": "../web app"}, "marker": "python_version < '3.13'"},
        {"name": "lib", "directory": {"path": "../platform/lib"}},
        {"name": "kept", "version": "1.0"},
    ]
    assert with_paths(text, {"packages": packages}, tmp_path / "platform", tmp_path / "work").splitlines() == [
        "web-app @ ../web app ; python_version < '3.13'",
        "lib @ ./lib",
        "kept==1.0 \\",
        "    --hash=a",
    ]


@pytest.mark.parametrize(
    ("python", "requires", "wanted"),
    [
        ("", "", ">=3.11"),
        ("", ">=3.9", ">=3.11"),
        ("", ">=3.12,<3.13", ">=3.12,<3.13"),
        ("", "==3.13.*", ">=3.13,==3.13.*"),
        ("3.13", ">=3.12", ">=3.13,>=3.12"),
        ("", ">=3.12.4,<3.13", ">=3.12,<3.13,>=3.12.4"),
    ],
)
def test_the_lock_is_for_the_oldest_python_of_the_project(
    tmp_path: Path, python: str, requires: str, wanted: str
) -> None:
    assert pythons(project(tmp_path, python, requires)) == wanted


@pytest.mark.parametrize(
    ("python", "requires", "said"),
    [
        ("3.11", ">=3.12", "has 3.11 as python in [tool.lvao], which does not meet its own requires-python, >=3.12."),
        ("3.10", "", "has 3.10 as python in [tool.lvao], which must be 3.11 or newer."),
        ("", "<3.11", "has <3.11 as requires-python, which no Python from 3.11 on meets."),
        ("", "3.12", "has 3.12 as requires-python, which is no specifier such as >=3.12,<3.13."),
    ],
)
def test_a_python_that_cannot_be_is_refused(tmp_path: Path, python: str, requires: str, said: str) -> None:
    with pytest.raises(LockError) as refused:
        pythons(project(tmp_path, python, requires))
    assert said in str(refused.value)


def test_a_package_is_built_from_its_code_alone(tmp_path: Path) -> None:
    for path in ("app/code.py", ".env", "dags/one.py", "requirements/airflow.txt", "__pycache__/code.pyc"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    assert source_files(project(tmp_path), tmp_path) == ["app/code.py"]
