"""What the role says when it cannot keep the admin account, change its password, or dump: why, and nothing secret."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("admin", "The account admin could not be kept:"),
        ("password", "The password of airflow could not be changed in the database:"),
        ("dump", "The database airflow could not be dumped before it is migrated:"),
    ],
)
def test_a_failure_says_why_and_shows_no_password(tmp_path: Path, tasks: str, message: str) -> None:
    role = {"name": "airflow_database", "tasks_from": tasks}
    play = {"hosts": "localhost", "gather_facts": False, "tasks": [{"ansible.builtin.include_role": role}]}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    values = {
        "airflow_database_python": sys.executable,
        "airflow_database_port": 9,
        "airflow_database_dump_directory": str(tmp_path),
        "airflow_release": "/nowhere",
        "airflow_database_password": "a-secret",
        "airflow_database_admin_password": "a-secret",
    }
    ended = subprocess.run(
        ["ansible-playbook", "-vvv", tmp_path / "play.yml", "--extra-vars", json.dumps(values)],
        cwd=PROJECT,
        text=True,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 2, ended.stdout
    assert message in ended.stdout
    assert "a-secret" not in ended.stdout
