"""What the list of an intruder's traces says of a database, with the tables of the locked Airflow."""

import json
import runpy
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import dill
import pytest
from airflow import DAG
from airflow.models import Connection, DagModel, Log, Pool, Trigger, Variable
from airflow.models.base import Base
from airflow.models.callback import Callback
from airflow.models.dagbundle import DagBundleModel
from airflow.models.serialized_dag import SerializedDagModel
from airflow.providers.fab.auth_manager.models import Group, Model, Role, User
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from sqlalchemy import create_engine, insert, text, update
from sqlalchemy.orm import Session

ROOT = Path(__file__).parents[2]
TRIAGE = runpy.run_path(str(ROOT / "roles/airflow_database/files/triage.py"))
MAY = datetime(2026, 5, 4, 3, 2, tzinfo=UTC)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A database with Airflow's tables, and no rows."""
    engine = create_engine(f"sqlite:///{tmp_path}/airflow.db")
    Base.metadata.create_all(engine)
    Model.metadata.create_all(engine)
    with Session(engine) as opened:
        opened.execute(text("CREATE TABLE IF NOT EXISTS session (session_id TEXT, data BLOB, expiry TIMESTAMP)"))
        yield opened


def said(session: Session, title: str, ids: set[str] = frozenset(), faults: list[str] = ()) -> list[str]:
    session.flush()
    return TRIAGE["sections"](session, ids, faults)[title]


def save_dag(session: Session, dag_id: str) -> None:
    with DAG(dag_id, schedule=None, start_date=MAY) as dag:
        EmptyOperator(task_id="nothing")
    dag.fileloc, dag.relative_fileloc = __file__, f"{dag_id}.py"
    session.merge(DagBundleModel(name="dags-folder"))
    session.merge(DagModel(dag_id=dag_id, bundle_name="dags-folder", relative_fileloc=f"{dag_id}.py", is_stale=False))
    session.flush()
    SerializedDagModel.write_dag(LazyDeserializedDAG.from_dag(dag), bundle_name="dags-folder", session=session)
    session.flush()


def test_an_empty_database_has_nothing_to_tell(session: Session) -> None:
    found = TRIAGE["sections"](session, set(), [])
    assert found.pop("Sessions and tokens")[:2] == ["0 sessions of browsers", "0 tokens were revoked"]
    assert {line for lines in found.values() for line in lines} == {"none"}


def test_admins_come_first_and_the_newest_before_others(session: Session) -> None:
    roles = {name: Role(name=name) for name in ("Admin", "Viewer")}
    group = Group(name="ops", roles=[roles["Admin"]])
    for name, day in {"old": 1, "new": 2, "by-group": 3, "planted": 4}.items():
        user = User(username=name, first_name=name, last_name="x", email=name)
        user.active, user.password = True, "a-secret"
        user.created_on = MAY.replace(day=day, tzinfo=None)
        user.roles = [] if name == "by-group" else [roles["Admin" if name == "old" else "Viewer"]]
        user.groups = [group] if name == "by-group" else []
        session.add(user)
    session.flush()
    session.execute(update(User).where(User.username == "planted").values(created_on=None))
    session.expire_all()
    assert said(session, "Accounts, admins first") == [
        "by-group: Admin; active, created 2026-05-03 03:02, last login never",
        "old: Admin; active, created 2026-05-01 03:02, last login never",
        "planted: Viewer; active, created at no known time, last login never",
        "new: Viewer; active, created 2026-05-02 03:02, last login never",
    ]
    assert said(session, "Roles") == ["Admin: 0 permissions", "Viewer: 0 permissions"]


def test_sessions_are_counted_and_dated(session: Session) -> None:
    session.execute(text("INSERT INTO session (session_id, expiry) VALUES ('a-secret', '2026-05-04 03:02:00.000000')"))
    assert "1 sessions of browsers" in said(session, "Sessions and tokens")[0]
    assert "2026-05-04 03:02" in said(session, "Sessions and tokens")[0]


def test_a_trigger_that_nobody_waits_for_is_counted(session: Session) -> None:
    session.execute(
        insert(Trigger.__table__).values(classpath="os.system", kwargs='{"command": "a-secret"}', created_date=MAY)
    )
    assert said(session, "Triggers, which the triggerer runs") == [
        "os.system: 1, of which nothing waits for 1, created 2026-05-04 03:02 to 2026-05-04 03:02"
    ]


def test_a_callback_is_named(session: Session) -> None:
    row = {"type": "executor", "fetch_method": "import_path", "state": "pending", "priority_weight": 1}
    session.execute(
        insert(Callback.__table__).values(**row, id=UUID(int=1), created_at=MAY, data={"path": "os.system"})
    )
    assert said(session, "Functions that callbacks and deadlines call") == ["os.system: 1 (callback)"]
    # What Airflow itself could not read.
    session.execute(text("""UPDATE callback SET data = '{"__type": "nope"}'"""))
    assert said(session, "Functions that callbacks and deadlines call") == ["unknown: 1 (callback)"]


def test_a_section_that_cannot_be_read_says_so() -> None:
    def lines() -> Iterator[str]:
        yield "one"
        raise KeyError

    assert TRIAGE["readable"](lines()) == ["one", "the rest cannot be read: KeyError"]


class Caller:
    """Its pickle calls a command."""

    def __reduce__(self) -> tuple:
        """Say what is called."""
        return (print, ("it was loaded",))


@pytest.mark.parametrize(("config", "calls"), [(Caller(), True), ({}, False), ({"queue": ["a", 1, None]}, False)])
def test_a_pickle_that_calls_code_is_told_from_data(config: object, calls: bool, capsys: pytest.CaptureFixture) -> None:
    assert TRIAGE["calls"](dill.dumps(config)) is calls
    assert TRIAGE["calls"](b"no pickle")
    assert capsys.readouterr().out == ""


def test_what_changed_by_the_api_is_dated(session: Session) -> None:
    session.add(Log(event="post_connection", extra="no JSON"))
    session.add_all([Connection(conn_id="db", uri="postgres://me:a-secret@db"), Variable(key="k", val="a-secret")])
    for name, extra in {
        "post_connection": {"connection_id": "db"},
        "bulk_variables": {"actions": [{"action": "create", "entities": [{"key": "k", "value": "***"}]}]},
    }.items():
        entry = Log(event=name, owner="mallory", extra=json.dumps(extra))
        entry.dttm = MAY
        session.add(entry)
    session.flush()
    assert said(session, "Connections in the database") == ["db: last changed by the API 2026-05-04 03:02 by mallory"]
    assert said(session, "Variables in the database") == ["k: last changed by the API 2026-05-04 03:02 by mallory"]


def test_dags_that_are_not_the_release_s_are_named(session: Session) -> None:
    save_dag(session, "ours")
    save_dag(session, "theirs")
    title = "DAGs that are not the release's"
    assert said(session, title, {"ours", "theirs"}) == ["none"]
    (line,) = said(session, title, {"ours"})
    assert line.startswith("theirs: not in the release; theirs.py")
    assert "not stale" in line
    assert said(session, title, {"ours", "theirs"}, ["broken.py"]) == [
        "broken.py does not import: its DAGs count as not in the release"
    ]


def test_a_dag_whose_data_were_changed_is_named(session: Session) -> None:
    save_dag(session, "ours")
    data = session.query(SerializedDagModel).one().data
    data["dag"]["description"] = "changed"
    session.execute(update(SerializedDagModel.__table__).values(data=data))
    (line,) = said(session, "DAGs that are not the release's", {"ours"})
    assert line.startswith("ours: its serialized form of")


def test_names_obey_no_terminal(session: Session) -> None:
    session.add(Pool(pool="\x1b[2Jé", slots=3, include_deferred=False))
    assert said(session, "Pools") == [r"\x1b[2Jé: 3 slots"]
