"""Where the team's project lies is a setting, and one that cannot be used is refused with a reason."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bin"))
from project import PROMISES, ProjectError, find

BIN = Path(__file__).parents[2] / "bin"
HERE = '[dependency-groups]\nairflow = []\n[tool.lvao]\nproject = "."\n'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This repository, with DAGs of its own."""
    monkeypatch.delenv("LVAO_PROJECT", raising=False)
    (tmp_path / "here/dags").mkdir(parents=True)
    (tmp_path / "here/pyproject.toml").write_text(HERE)
    return tmp_path / "here"


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    """A part of a monorepo, beside this repository."""
    folder = tmp_path / "monorepo/data-platform"
    (folder / "flows").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        '[dependency-groups]\nplatform = []\n[tool.lvao]\ngroup = "platform"\ndags = "flows"\ntests = "tests"\n'
    )
    return folder


def test_it_is_here_by_default(here: Path) -> None:
    project = find(here)
    assert (project.folder, project.group, project.dags) == (here, "airflow", here / "dags")
    assert (project.requirements, project.tests) == (here / "requirements", here / "dags/tests")


@pytest.mark.parametrize("by", ["table", "environment", "argument"])
def test_it_may_be_another_checkout(here: Path, platform: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    relative = os.path.relpath(platform, here)
    if by == "table":
        (here / "pyproject.toml").write_text(HERE.replace('"."', f'"{relative}"'))
    if by == "environment":
        monkeypatch.setenv("LVAO_PROJECT", str(platform))
    project = find(here, relative if by == "argument" else None)
    assert (project.folder, project.group, project.dags) == (platform, "platform", platform / "flows")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "pyproject.toml is missing: a project has one"),
        ("[", "pyproject.toml cannot be read: "),
        (
            "[dependency-groups]\nother = []",
            "has no dependency group airflow: [dependency-groups] must have it, or group",
        ),
        (
            "[dependency-groups]\nairflow = []",
            "dags is not there: dags in [tool.lvao] must name the folder of the DAGs.",
        ),
        (HERE.replace('project = "."', "dags = 1"), "has 1 as dags in [tool.lvao], which must be a text."),
        (
            HERE.replace('project = "."', "release-folders = 'dbt'"),
            "release-folders in [tool.lvao], which must be a list",
        ),
        (
            HERE.replace('project = "."', "release-env = {A = 1}"),
            "as release-env in [tool.lvao], which must be a table",
        ),
        (
            HERE.replace('project = "."', "release-folders = ['x']"),
            "x is not there: release-folders in [tool.lvao] must",
        ),
        (f"{HERE}checks = 1", "has 1 as checks in [tool.lvao], which must be a table: [tool.lvao.checks]."),
        (
            f"{HERE}[tool.lvao.checks]\nowner = 1",
            "has 1 as owner in [tool.lvao.checks], which must be error, warning or",
        ),
        (
            f"{HERE}[tool.lvao.checks]\nowners = 'off'",
            "has owners in [tool.lvao.checks], which may hold imports, tasks,",
        ),
        (
            f"{HERE}[tool.lvao.checks]\nwarn = 'a.py'",
            "has 'a.py' as warn in [tool.lvao.checks], which must be a list of",
        ),
        (f"{HERE}test-postgresql = true", "has True as test-postgresql in [tool.lvao], which must be the name of the"),
        (f"{HERE}python = 3.12", "has 3.12 as python in [tool.lvao], which must be a text such as"),
        (HERE.replace("project", "folder"), "has folder in [tool.lvao], which may hold group, test-group, dags,"),
    ],
    ids=[
        "no file",
        "no TOML",
        "no group",
        "no DAGs",
        "no text",
        "no list",
        "no table",
        "no folder",
        "no table of checks",
        "an odd check",
        "a check that is none",
        "one file",
        "no name",
        "a number",
        "a slip",
    ],
)
def test_one_that_cannot_be_used_is_refused(here: Path, tmp_path: Path, content: str | None, message: str) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    if content is not None:
        (folder / "pyproject.toml").write_text(content)
    with pytest.raises(ProjectError) as refused:
        find(here, str(folder))
    assert message in str(refused.value)


def test_it_says_what_a_release_carries(here: Path) -> None:
    (here / "dbt").mkdir()
    carried = 'release-folders = ["dbt"]\nrelease-build-command = ["dbt", "deps"]\nrelease-env = {PROJECT = "dbt"}\n'
    (here / "pyproject.toml").write_text(HERE + carried)
    project = find(here)
    assert (project.release_folders, project.release_build_command) == (["dbt"], ["dbt", "deps"])
    assert (project.release_env, project.release_include) == ({"PROJECT": "dbt"}, [])
    (here / "pyproject.toml").write_text(HERE)
    assert find(here).release_folders == []


def test_its_folders_are_named_as_on_a_host(here: Path, platform: Path) -> None:
    (platform / "dbt").mkdir()
    with (platform / "pyproject.toml").open("a") as file:
        file.write('release-folders = ["dbt"]\nrelease-python-path = [".", "dags/lib"]\n')
        file.write('release-env = {DBT_PROJECT_DIR = "dbt", TOPIC = "dags/topic"}\n')
    assert find(here, str(platform)).release_environment() == {
        "PYTHONPATH": f"{platform}:{platform}/flows/lib",
        "LVAO_RELEASE": str(platform),
        "DBT_PROJECT_DIR": f"{platform}/dbt",
        "TOPIC": f"{platform}/flows/topic",
    }


def test_a_command_runs_as_on_a_host(platform: Path) -> None:
    with (platform / "pyproject.toml").open("a") as file:
        file.write('release-python-path = ["flows"]\nrelease-env = {FLOWS = "flows"}\n')
    command = [BIN / "with_release.py", "sh", "-c", "echo $LVAO_RELEASE $FLOWS $PYTHONPATH $PATH"]
    given = os.environ | {"LVAO_PROJECT": str(platform), "PYTHONPATH": "/theirs", "PATH": os.defpath}
    said = subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout
    path = f"{BIN.parent}/.venv-airflow/bin:{os.defpath}"
    assert said.split() == [str(platform), f"{platform}/flows", f"{platform}/flows:/theirs", path]
    for arguments, fault in ((["no-such-program"], "with_release: [Errno 2]"), ([], "Usage: ")):
        ended = subprocess.run(
            [BIN / "with_release.py", *arguments], env=given, capture_output=True, text=True, check=False
        )
        assert ended.returncode > 0
        assert ended.stderr.startswith(fault)


def test_what_dags_have_to_have_is_its_own_choice(here: Path) -> None:
    assert find(here).checks.promises["imports"] == "error"
    assert find(here).checks.promises["owner"] == "warning"
    (here / "pyproject.toml").write_text(
        f"{HERE}test-postgresql = 'DATABASE_URL'\n"
        "[tool.lvao.checks]\nowner = 'off'\ntags = 'error'\nwarn = ['asks/*']\n"
    )
    project = find(here)
    assert project.test_postgresql == "DATABASE_URL"
    assert project.checks.promises == PROMISES | {"owner": "off", "tags": "error"}
    assert project.checks.warn == ("asks/*",)


def test_the_command_says_what_is_wrong() -> None:
    ended = subprocess.run(
        [sys.executable, Path(__file__).parents[2] / "bin/project.py", "dags"],
        env=os.environ | {"LVAO_PROJECT": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(
        "project: The project /nowhere is not there: LVAO_PROJECT, or project in [tool.lvao],"
    )
