"""The tests of a project's DAGs have an environment of their own, and a PostgreSQL if they ask for one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg2
import pytest

sys.path.append(str(Path(__file__).parents[2] / "bin"))
import dag_tests
from project import Project, find

PROJECT = Path(__file__).parents[2]
PYPROJECT = """
[dependency-groups]
airflow = []
[tool.lvao]
tests = "tests"
test-postgresql = "DATABASE_URL"
[tool.pytest.ini_options]
markers = ["slow: takes its time"]
addopts = "--strict-markers"
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Make a project elsewhere, with a test."""
    (tmp_path / "dags").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    return find(PROJECT, str(tmp_path))


@pytest.fixture(autouse=True)
def _python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this Python stand for that of the servers."""
    monkeypatch.setattr(dag_tests, "PYTHON", Path(sys.executable))


def test_the_environment_has_the_projects_values_and_no_settings_of_the_callers(project: Project) -> None:
    project.env_file.write_text(
        "# A comment\nDATABASE_URL=postgres://a:b=c@host/d # taken as it is\nAIRFLOW_VAR_SHOP=1\nEMPTY=\nno line\n"
        "AIRFLOW_HOME=/elsewhere\n"
    )
    caller = {"PATH": "/bin", "AIRFLOW__CORE__EXECUTOR": "x", "AIRFLOW_VAR_MINE": "x", "PYTHONPATH": "/lib"}
    env = dag_tests.environment(project, Path("/home"), caller)
    assert {name: value for name, value in env.items() if not name.startswith("AIRFLOW__")} == {
        "AIRFLOW_HOME": "/home",
        "AIRFLOW_VAR_SHOP": "1",
        "DATABASE_URL": "postgres://a:b=c@host/d # taken as it is",
        "EMPTY": "",
        "LVAO_RELEASE": str(project.folder),
        "PATH": f"{PROJECT}/.venv-airflow/bin:/bin",
        "PYTHONPATH": f"{project.dags}:/lib",
    }
    assert env["AIRFLOW__CORE__DAGS_FOLDER"] == str(project.dags)
    assert "AIRFLOW__CORE__EXECUTOR" not in env
    assert "DATABASE_URL" not in dag_tests.environment(find(PROJECT), Path("/home"), caller)


def test_the_teams_tests_run_with_their_own_options(project: Project, capfd: pytest.CaptureFixture) -> None:
    (project.tests / "test_a.py").write_text(
        "import os, pytest\n"
        "def test_it_has_what_it_asks_for(): assert os.environ['GIVEN'] == '1'\n"
        "@pytest.mark.slow\n"
        "def test_a_slow_one(): assert False\n"
    )
    env = os.environ | {"GIVEN": "1"}
    assert not dag_tests.run_tests(project, env, [])
    assert "1 failed, 1 passed" in capfd.readouterr().out
    assert dag_tests.run_tests(project, env, ["-m", "not slow"])
    # Strict markers: one that the team has not registered is an error.
    (project.tests / "test_a.py").write_text("import pytest\n@pytest.mark.other\ndef test_a(): pass\n")
    assert not dag_tests.run_tests(project, env, [])


def test_a_team_without_tests_is_fine(project: Project, capfd: pytest.CaptureFixture) -> None:
    assert dag_tests.run_tests(project, dict(os.environ), [])
    project.tests.rmdir()
    assert dag_tests.run_tests(project, dict(os.environ), [])
    assert "the project has no tests: tests in [tool.lvao] would name their folder" in capfd.readouterr().out


def test_tests_without_pytest_are_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dag_tests, "PYTHON", project.folder / "bin/python")
    with pytest.raises(dag_tests.TestsError, match="add it to the group dag-tests of"):
        dag_tests.run_tests(project, {}, [])


def test_a_machine_without_postgresql_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dag_tests, "POSTGRESQL_FOLDERS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(dag_tests.TestsError, match=r"initdb is not on this machine: install it \(Debian's package: "):
        dag_tests.postgresql_programs()


def test_the_newest_postgresql_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dag_tests, "POSTGRESQL_FOLDERS", tmp_path)
    for version in ("9.6", "15", "17"):
        (tmp_path / version / "bin").mkdir(parents=True)
        for program in dag_tests.POSTGRESQL_PROGRAMS if version != "17" else ():
            (tmp_path / version / "bin" / program).touch()
    assert dag_tests.postgresql_programs() == tmp_path / "15/bin", "of 17, only the client is there"


HAS_POSTGRESQL = shutil.which("initdb") or [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]


@pytest.mark.skipif(not HAS_POSTGRESQL, reason="PostgreSQL is not installed")
def test_the_tests_have_a_postgresql_that_goes_away_with_them() -> None:
    with dag_tests.postgresql() as address, dag_tests.postgresql() as other:
        assert address != other
        connection = psycopg2.connect(address)
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE shops (name text)")
            cursor.execute("SELECT count(*) FROM shops")
            assert cursor.fetchone() == (0,)
        connection.close()
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(address.replace("test:", "test:x"))
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        psycopg2.connect(address)


@pytest.mark.skipif(not HAS_POSTGRESQL, reason="PostgreSQL is not installed")
def test_a_postgresql_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dag_tests, "free_port", lambda: 70000)
    with (
        pytest.raises(dag_tests.TestsError, match=r"(?s)pg_ctl of the tests' PostgreSQL fails:.*70000"),
        dag_tests.postgresql(),
    ):
        pass


def test_the_command_says_what_is_wrong() -> None:
    ended = subprocess.run(
        [sys.executable, PROJECT / "bin/dag_tests.py"],
        env=os.environ | {"LVAO_PROJECT": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("test-dags: The project /nowhere is not there: LVAO_PROJECT")
