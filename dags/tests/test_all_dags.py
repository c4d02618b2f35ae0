"""What every DAG of this folder promises."""

from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG

BAG = DagBag(Path(__file__).parents[1])


def faults(dag: DAG) -> list[str]:
    """List what a DAG lacks of what every DAG promises."""
    found = [name for name in ("tags", "description", "tasks") if not getattr(dag, name)]
    for task in dag.tasks:
        # `Retries:` in the documentation says why there are none.
        documentation = f"{dag.doc_md} {task.doc_md}"
        kept = {
            "start_date": dag.start_date or task.start_date,
            "owner": task.owner != "airflow",
            "retries": task.retries or "Retries:" in documentation,
        }
        found += [f"{promise} of {task.task_id}" for promise, is_kept in kept.items() if not is_kept]
    return found


def test_every_dag_imports() -> None:
    assert BAG.import_errors == {}


def test_no_dag_uses_what_is_deprecated() -> None:
    assert BAG.captured_warnings == {}


def test_only_dags_are_parsed() -> None:
    assert not [file.file for file in BAG.dagbag_stats if "tests" in Path(file.file).parts]


@pytest.mark.parametrize("dag_id", sorted(BAG.dags))
def test_every_dag_says_whose_it_is_and_what_it_does(dag_id: str) -> None:
    assert faults(BAG.dags[dag_id]) == []


def parse(folder: Path, source: str) -> DagBag:
    """Parse a file as the DAG processor does."""
    (folder / "written.py").write_text(source)
    return DagBag(folder)


def test_a_dag_that_says_nothing_is_refused(tmp_path: Path) -> None:
    bag = parse(
        tmp_path,
        "from airflow.sdk import DAG\n"
        "from airflow.providers.standard.operators.empty import EmptyOperator\n"
        "with DAG('bad', schedule=None):\n"
        "    EmptyOperator(task_id='silent')\n"
        "    EmptyOperator(task_id='explained', owner='data', doc_md='Retries: none, it does nothing.')\n"
        "empty = DAG('empty', schedule=None, tags=['example'], description='It has no tasks')\n",
    )
    assert faults(bag.dags["bad"]) == [
        "tags",
        "description",
        "start_date of silent",
        "owner of silent",
        "retries of silent",
        "start_date of explained",
    ]
    assert faults(bag.dags["empty"]) == ["tasks"]


def test_a_dag_that_does_not_import_is_reported(tmp_path: Path) -> None:
    (error,) = parse(tmp_path, "from airflow.sdk import DAG\nimport no_such_module\n").import_errors.values()
    assert "no_such_module" in error


def test_a_deprecated_import_is_reported(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"airflow\.decorators\.dag"):
        bag = parse(tmp_path, "from airflow.decorators import dag\n")
    assert "airflow.sdk.dag" in str(bag.captured_warnings)
