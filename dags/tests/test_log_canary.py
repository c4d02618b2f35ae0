"""The canary says what it was told to say, where a deploy looks for it."""

import pytest
from airflow.sdk import DAG


def test_it_logs_and_returns_its_token(dags: dict[str, DAG], caplog: pytest.LogCaptureFixture) -> None:
    run = dags["log_canary"].test(run_conf={"token": "sesame"})
    assert run.state == "success"
    assert run.get_task_instance("write_token").xcom_pull(task_ids="write_token") == "sesame"
    assert "log canary: sesame" in caplog.messages


def test_it_makes_a_token_of_its_own(dags: dict[str, DAG], caplog: pytest.LogCaptureFixture) -> None:
    run = dags["log_canary"].test()
    token = run.get_task_instance("write_token").xcom_pull(task_ids="write_token")
    assert len(token) == 32
    assert f"log canary: {token}" in caplog.messages


def test_it_can_be_triggered_at_once(dags: dict[str, DAG]) -> None:
    assert dags["log_canary"].is_paused_upon_creation is False
