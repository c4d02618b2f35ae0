"""The canary says what it was told to say, where a deploy looks for it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG

FOLDER = Path(__file__).parents[2] / "roles/airflow/files/libexec/dags"


@pytest.fixture(scope="module")
def database() -> None:
    """Make an empty metadata database, which `dag.test()` needs."""
    subprocess.run([Path(sys.executable).with_name("airflow"), "db", "migrate"], check=True, capture_output=True)


@pytest.fixture
def dags(database: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, DAG]:
    """Load it, ready to run, by a bundle of its own; anew for each test, as a run leaves its parameters in its DAG."""
    bundles = [
        {"name": name, "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle", "kwargs": kwargs}
        for name, kwargs in (("dags-folder", {}), ("canary", {"path": str(FOLDER)}))
    ]
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps(bundles))
    bag = DagBag(FOLDER)
    assert bag.import_errors == {}
    assert bag.captured_warnings == {}
    return bag.dags


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
