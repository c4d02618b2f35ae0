"""How a dump gets to the disk, and which dumps in the bucket are too old."""

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SCRIPT = PROJECT / "roles/airflow_database/files/dump.sh"


def dump(folder: Path, pg_dump: str) -> subprocess.CompletedProcess[str]:
    """Run the script with a pg_dump of our own, through a command that shows what it was given."""
    program = folder / "bin/pg_dump"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{pg_dump}\n")
    program.chmod(0o755)
    return subprocess.run(
        ["bash", "-c", SCRIPT.read_text(), "dump.sh", folder / "a.pgc.age", "sed", "s/^/encrypted: /"],
        env=os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"},
        input=" a secret\\'\n",
        text=True,
        capture_output=True,
        check=False,
    )


def test_a_dump_lies_on_the_disk_encrypted_alone_and_for_its_owner(tmp_path: Path) -> None:
    # Of a deploy that died.
    (tmp_path / ".unfinished.pgc").write_text("clear")
    # It says which files there are while it dumps.
    ended = dump(tmp_path, f'echo "$PGPASSWORD"; cd {tmp_path}; until [ -e .unfinished-* ]; do sleep 0.1; done; ls -A')
    assert ended.returncode == 0, ended.stderr
    written = tmp_path / "a.pgc.age"
    lines = (" a secret\\'", ".unfinished-a.pgc.age", "bin")
    assert written.read_text() == "".join(f"encrypted: {line}\n" for line in lines)
    assert written.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"bin", written.name}


def test_half_a_dump_has_no_name(tmp_path: Path) -> None:
    ended = dump(tmp_path, "echo half; echo why >&2; exit 1")
    assert (ended.returncode, ended.stderr) == (1, "why\n")
    assert not (tmp_path / "a.pgc.age").exists()


def rendered(expression: str, **values: object) -> object:
    """Evaluate an expression as the role does."""
    known = {
        "airflow_database_name": "lvao-prod-airflow",
        "airflow_database_dump_days": "30",
        "airflow_database_dump_bucket_url": "",
        "airflow_database_dump_access_key": "",
        "airflow_database_dump_secret_key": "",
        "airflow_logging_bucket_url": "s3://logs",
        "airflow_logging_access_key": "of the logs",
        "airflow_logging_secret_key": "of the logs",
        "airflow_logging_endpoint_url": "https://s3.lvao.test",
        "airflow_logging_region": "fr-par",
        "airflow_logging_config_kwargs": {},
    }
    message = f"msg={{{{ {{'value': {expression}}} | to_json }}}}"
    variables = ["-e", "@roles/airflow_database/vars/main.yml", "-e", json.dumps(known | values)]
    ended = subprocess.run(
        ["ansible", "localhost", "-m", "debug", "-a", message, *variables],
        env=os.environ | {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        cwd=PROJECT,
        text=True,
        capture_output=True,
        check=True,
    )
    return json.loads(json.loads(ended.stdout.partition("=>")[2])["msg"])["value"]


def test_dumps_of_this_database_that_are_too_old_are_removed() -> None:
    def name(days: float, database: str = "lvao-prod-airflow", suffix: str = ".age") -> str:
        taken = datetime.now(UTC) - timedelta(days=days)
        return f"airflow/dumps/{database}-{taken:%Y%m%dT%H%M%SZ}-before-0123456789ab.pgc{suffix}"

    old = [name(400, suffix=""), name(30.01)]
    others = [name(400, "lvao-preprod-airflow"), name(400, "lvao-prod-airflow-copy"), f"x{name(400)}"]
    by_hand = ["airflow/dumps/lvao-prod-airflow-2020.pgc", "airflow/dumps/"]
    stored = {"s3_keys": [*others, *old, *by_hand, name(29.99), name(0)]}
    url = "s3://logs/airflow/"
    assert (
        rendered("__airflow_database_expired", __airflow_database_stored=stored, airflow_logging_bucket_url=url) == old
    )


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        ({}, ["logs", "dumps/", "of the logs", "of the logs"]),
        (
            {"bucket_url": "s3://own/one/two", "access_key": "own", "secret_key": "secret"},
            ["own", "one/two/dumps/", "own", "secret"],
        ),
    ],
    ids=["of the logs", "of their own"],
)
def test_dumps_go_to_the_bucket_of_the_logs_or_to_their_own(own: dict[str, str], wanted: list[str]) -> None:
    names = ("bucket", "folder", "storage.access_key", "storage.secret_key")
    expression = ", ".join(f"__airflow_database_dump_{name}" for name in names)
    values = {f"airflow_database_dump_{name}": value for name, value in own.items()}
    assert rendered(f"[{expression}]", **values) == wanted
