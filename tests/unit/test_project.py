"""Where the team's project lies is a setting, and one that cannot be used is refused with a reason."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bin"))
from project import ProjectError, find

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
        (HERE.replace("project", "folder"), "has folder in [tool.lvao], which may hold group, test-group, dags,"),
    ],
    ids=["no file", "no TOML", "no group", "no DAGs", "no text", "a slip"],
)
def test_one_that_cannot_be_used_is_refused(here: Path, tmp_path: Path, content: str | None, message: str) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    if content is not None:
        (folder / "pyproject.toml").write_text(content)
    with pytest.raises(ProjectError) as refused:
        find(here, str(folder))
    assert message in str(refused.value)


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
