"""What every DAG of this folder promises."""

from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from conftest import DAGS


def load(folder: Path) -> DagBag:
    """Import the DAGs of a folder, as the DAG processor does."""
    return DagBag(dag_folder=str(folder))


def faults(dag: DAG) -> list[str]:
    """List what a DAG lacks of what every DAG promises."""
    found = [name for name in ("tags", "description") if not getattr(dag, name)]
    for task in dag.tasks:
        found += [f"start_date of {task.task_id}"] if not (dag.start_date or task.start_date) else []
        found += [f"owner of {task.task_id}"] if task.owner == "airflow" else []
        found += [f"retries of {task.task_id}"] if not task.retries and "Retries:" not in (dag.doc_md or "") else []
    return found


BAG = load(DAGS)


def test_every_dag_imports() -> None:
    assert not BAG.import_errors
    assert {"log_canary", "repair_shops"} <= set(BAG.dags)


@pytest.mark.parametrize("dag_id", sorted(BAG.dags))
def test_every_dag_says_whose_it_is_and_what_it_does(dag_id: str) -> None:
    assert not faults(BAG.dags[dag_id])


def test_a_dag_that_says_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "from airflow.sdk import DAG\n"
        "from airflow.providers.standard.operators.empty import EmptyOperator\n"
        "with DAG('bad', schedule=None):\n"
        "    EmptyOperator(task_id='idle')\n"
    )
    assert faults(load(tmp_path).dags["bad"]) == [
        "tags", "description", "start_date of idle", "owner of idle", "retries of idle",
    ]  # fmt: skip


def test_a_dag_that_does_not_import_is_reported(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("from airflow.sdk import DAG\ndef\n")
    assert "SyntaxError" in str(load(tmp_path).import_errors) or "invalid syntax" in str(load(tmp_path).import_errors)
