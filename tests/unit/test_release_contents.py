"""What a release carries of a project, by the role's own tasks, which run on the controller."""

import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
ROLE = PROJECT / "roles/airflow"
HOST = "release-contents"
ARCHIVE = PROJECT / f".cache/{HOST}/dags.tar"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a project with DAGs, and a dbt project whose packages a command makes."""
    for name in ("dags/a.py", "dags/tests/t.py", "dags/.env", "dbt/tests/unique.sql"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".gitignore").write_text("dbt_packages\n")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    return tmp_path


def run(folder: Path, *tasks: dict, **values: object) -> subprocess.CompletedProcess[str]:
    """Run tasks for a project with a dbt project."""
    variables = {
        "airflow_project_directory": str(folder),
        "airflow_release_folders": ["dbt"],
        "airflow_release_include": ["dbt/dbt_packages"],
        "airflow_release_build_command": ["sh", "-c", "mkdir -p dbt/dbt_packages && touch dbt/dbt_packages/macro.sql"],
        "airflow_directory": "/opt/airflow",
        "ansible_connection": "local",
    }
    play = {"hosts": HOST, "gather_facts": False, "vars": variables | values, "tasks": tasks}
    (folder / "play.json").write_text(json.dumps([play]))
    return subprocess.run(
        ["ansible-playbook", "--check", "-i", f"{HOST},", folder / "play.json"],
        env=os.environ | {"ANSIBLE_ROLES_PATH": str(ROLE.parent), "ANSIBLE_NOCOLOR": "true"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


def pack(folder: Path, **values: object) -> subprocess.CompletedProcess[str]:
    task = {"ansible.builtin.import_role": {"name": "airflow", "tasks_from": "pack"}}
    # It is done once in a run.
    return run(folder, task, task, **values)


def test_it_carries_what_was_built_and_the_canary(project: Path) -> None:
    ended = pack(project)
    assert ended.returncode == 0, ended.stdout
    with tarfile.open(ARCHIVE) as archive:
        files = [member.name for member in archive if not member.isdir()]
    assert files == ["dags/a.py", "dags/log_canary.py", "dbt/dbt_packages/macro.sql", "dbt/tests/unique.sql"]
    assert "ok=3 " in ended.stdout


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (
            {"airflow_release_build_command": ["sh", "-c", "echo no package index; exit 2"]},
            r"airflow_release_build_command: sh -c 'echo no package index; exit 2' ended with status 2, in .* index",
        ),
        (
            {"airflow_release_build_command": ["sleep", "60"], "airflow_release_build_timeout": 1},
            "airflow_release_build_command: sleep 60 did not end within 1 seconds",
        ),
        (
            {"airflow_release_build_command": ["cp", "dags/a.py", "dags/log_canary.py"], "airflow_release_include": []},
            "dags/log_canary.py and .*/roles/airflow/files/libexec/dags/log_canary.py would both be dags/log_canary.py",
        ),
    ],
    ids=["a failure", "a hang", "a canary of the team's"],
)
def test_what_cannot_be_carried_is_refused(project: Path, values: dict, fault: str) -> None:

    ended = pack(project, **values)
    assert ended.returncode == 2, ended.stdout
    said = " ".join(ended.stdout.replace("\\n", " ").split()).replace("''", "'")
    assert re.search(fault, said), ended.stdout


def render(folder: Path, name: str, **values: object) -> str:
    """Render a template of the role."""
    path = folder / "rendered"
    item = {
        "name": "scheduler-a",
        "description": "a scheduler",
        "release": "schedulers/UNIT",
        "command": "airflow scheduler",
    }
    task = {
        "ansible.builtin.copy": {
            "content": f"{{{{ lookup('template', '{ROLE}/templates/{name}') }}}}",
            "dest": str(path),
        },
        "check_mode": False,
    }
    known = {"ansible.builtin.import_role": {"name": "airflow", "tasks_from": "apply"}, "when": False}
    facts = {"python_version": "3.13.5", "memtotal_mb": 8192}
    ended = run(folder, known, task, item=item, ansible_facts=facts, **values)
    assert ended.returncode == 0, ended.stdout
    return path.read_text()


def test_a_unit_names_the_folders_of_its_own_release(project: Path) -> None:
    values = {"airflow_release_python_path": ["dbt", "."], "airflow_release_env": {"DBT_PROJECT_DIR": "dbt"}}
    unit = render(project, "lvao-airflow.service.j2", **values)
    release = "/opt/airflow/schedulers/lvao-airflow-scheduler-a"
    path = f"{release}/libexec/python:{release}/dbt:{release}/.:${{PYTHONPATH}}"
    named = f"PYTHONPATH={path} LVAO_RELEASE={release} DBT_PROJECT_DIR={release}/dbt"
    assert f"ExecStart=env {named} AIRFLOW__CORE__DAGS_FOLDER={release}/dags airflow scheduler\n" in unit
    assert "DAG_BUNDLE" not in unit
    command = render(project, "airflow-sandboxed.sh.j2", **values)
    path = r"$release/libexec/python:$release/dbt:$release/.:\${PYTHONPATH}"
    assert f'-- env PYTHONPATH={path} LVAO_RELEASE=$release DBT_PROJECT_DIR=$release/dbt "${{command[@]}}"' in command


def test_live_dags_have_the_canary_beside_them(project: Path) -> None:
    unit = render(project, "lvao-airflow.service.j2", airflow_dags_live="/srv/dags")
    (line,) = [line for line in unit.splitlines() if "DAG_BUNDLE_CONFIG_LIST" in line]
    bundles = json.loads(line.partition("_LIST=")[2].removesuffix("'"))
    assert [bundle["name"] for bundle in bundles] == ["dags-folder", "canary"]
    assert bundles[1]["kwargs"] == {"path": "/opt/airflow/current/libexec/dags"}
    assert (ROLE / "files/libexec/dags/log_canary.py").exists()
