"""What is asked of the database without Airflow's own libraries: a scheduler's heartbeat, and what one leaves."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import heartbeat
import lvao_notify
import psycopg2
import pytest
import settle

SHOWN = """\
StatusText=waits for 1 task(s): a.b ([job 3]) [job 17]
Id=lvao-airflow-scheduler-a.service

Id=lvao-airflow-scheduler-b.service
StatusText=schedules [job 18]

StatusText=ends
Id=lvao-airflow-scheduler-c.service
"""


def test_a_status_names_its_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lvao_notify.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=SHOWN))
    assert [lvao_notify.job_of(f"lvao-airflow-scheduler-{slot}") for slot in "abcd"] == [17, 18, None, None]


def test_a_database_that_does_not_answer_is_no_scheduler_without_a_heartbeat() -> None:
    url = "postgresql+psycopg2://user:secret@127.0.0.1:1/airflow"
    ended = subprocess.run(
        [sys.executable, str(Path(heartbeat.__file__)), "17", "60"],
        env={"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 75
    assert "secret" not in ended.stderr + ended.stdout


def test_what_a_scheduler_leaves_is_settled_once_the_database_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def answer(job: int) -> tuple[int, bool]:
        asked.append(job)
        if len(asked) < settle.TRIES:
            raise psycopg2.OperationalError
        return 3, True

    monkeypatch.setattr(settle, "SECONDS_BETWEEN_TRIES", 0)
    monkeypatch.setattr(settle, "settle", answer)
    jobs = {"lvao-airflow-scheduler-a": 17}
    monkeypatch.setattr(settle, "job_of", jobs.get)
    assert settle.main("lvao-airflow-scheduler-a") == 0
    assert asked == [17] * settle.TRIES
    assert settle.main("lvao-airflow-scheduler-b") == 0
    assert asked == [17] * settle.TRIES, "what was no scheduler yet leaves nothing"
