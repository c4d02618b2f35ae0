"""One DAG file does not end the DAG processor."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import dag_processor
import pytest
import structlog
from airflow import settings
from airflow.dag_processing.manager import DagFileInfo, DagFileProcessorManager
from airflow.dag_processing.processor import DagFileParseRequest, DagFileParsingResult, _parse_file
from airflow.models.base import Base
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.errors import ParseImportError
from airflow.utils.session import create_session
from sqlalchemy import delete, select
from sqlalchemy.exc import OperationalError, PendingRollbackError

BUNDLE = "dags-folder"
# Its start date varies, and it cannot be serialized: Airflow's warning is about a DAG that is not in the database.
ODD = """
import pendulum
from airflow.sdk import DAG
from airflow.timetables.simple import NullTimetable
class Odd(NullTimetable):
    pass
with DAG('odd', schedule=Odd(), start_date=pendulum.now()):
    pass
"""
GOOD = "from airflow.sdk import DAG\nwith DAG('good', schedule=None):\n    pass\n"


@pytest.fixture(autouse=True)
def _database() -> Iterator[None]:
    Base.metadata.create_all(settings.engine)
    with create_session() as session:
        session.merge(DagBundleModel(name=BUNDLE))
    yield
    with create_session() as session:
        for model in (DagModel, ParseImportError):
            session.execute(delete(model))


def handle(manager: DagFileProcessorManager, folder: Path, name: str, source: str) -> None:
    """Have a manager handle what the import of a file came to."""
    (folder / name).write_text(source)
    request = DagFileParseRequest(file=str(folder / name), bundle_path=folder, bundle_name=BUNDLE)
    result = _parse_file(request, structlog.get_logger())
    process = SimpleNamespace(had_callbacks=False, parsing_result=result, start_time=time.monotonic())
    manager._bundle_versions[BUNDLE] = None
    manager.handle_parsing_result(DagFileInfo(rel_path=Path(name), bundle_name=BUNDLE, bundle_path=folder), process)


def import_errors() -> dict[str, str]:
    with create_session() as session:
        return {error.filename: error.stacktrace for error in session.scalars(select(ParseImportError))}


def test_airflow_still_ends(tmp_path: Path) -> None:
    """If this fails, Airflow has mended it: remove libexec/dag_processor.py, and run `airflow dag-processor` again."""
    with pytest.raises(PendingRollbackError):
        handle(DagFileProcessorManager(max_runs=1), tmp_path, "odd.py", ODD)


def test_what_the_database_refuses_is_an_import_error_and_others_come(tmp_path: Path) -> None:
    manager = dag_processor.Manager(max_runs=1)
    handle(manager, tmp_path, "odd.py", ODD)
    handle(manager, tmp_path, "good.py", GOOD)
    assert "SerializationError" in import_errors()["odd.py"]
    with create_session() as session:
        assert session.scalars(select(DagModel.dag_id)).all() == ["good"]
    handle(manager, tmp_path, "odd.py", GOOD.replace("good", "odd"))
    assert import_errors() == {}


def test_a_dag_that_is_refused_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    persist = DagFileProcessorManager.persist_parsing_result

    def refuse(self: DagFileProcessorManager, *, parsing_result: DagFileParsingResult, **others: object) -> None:
        if parsing_result.serialized_dags:
            raise ValueError("integer\0 out of range \udcff")
        persist(self, parsing_result=parsing_result, **others)

    monkeypatch.setattr(DagFileProcessorManager, "persist_parsing_result", refuse)
    handle(dag_processor.Manager(max_runs=1), tmp_path, "good.py", GOOD)
    assert import_errors()["good.py"].endswith("ValueError: integer\\x00 out of range \\udcff\n")


def test_a_name_that_the_database_cannot_take_keeps_nobody_from_their_turn(tmp_path: Path) -> None:
    manager = dag_processor.Manager(max_runs=1)
    handle(manager, tmp_path, "name\udcff.py", GOOD)
    handle(manager, tmp_path, "good.py", GOOD)
    with create_session() as session:
        assert session.scalars(select(DagModel.dag_id)).all() == ["good"]


def test_an_error_with_a_nul_is_stored(tmp_path: Path) -> None:
    handle(dag_processor.Manager(max_runs=1), tmp_path, "nul.py", "# airflow dag\nraise ValueError('a\\0b')\n")
    assert "ValueError: a\\x00b" in import_errors()["nul.py"]


def test_a_database_that_is_away_is_no_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("away"))

    monkeypatch.setattr(DagFileProcessorManager, "persist_parsing_result", refuse)
    handle(dag_processor.Manager(max_runs=1), tmp_path, "good.py", GOOD)
    monkeypatch.undo()
    assert import_errors() == {}
