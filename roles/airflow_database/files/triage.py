"""List what somebody who had a secret of Airflow could have left in its database.

It reads, and changes nothing. It shows names and dates, and no value of a connection, a variable or a session. What it
prints is JSON: a list of lines for each title.

Usage: LVAO_PROGRAM=python airflow -c <this program>
"""

import json
import os
import pickletools
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.models import Connection, DagModel, Log, Pool, Trigger, Variable
from airflow.models.callback import ACTIVE_STATES, Callback
from airflow.models.deadline_alert import DeadlineAlert
from airflow.models.revoked_token import RevokedToken
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.providers.fab.auth_manager.models import Group, Role, User
from airflow.utils.session import create_session
from sqlalchemy import JSON, DateTime, LargeBinary, func, or_, select, table, text, type_coerce
from sqlalchemy import column as sql_column
from sqlalchemy.orm import Session

CHANGES = [f"{verb}_{what}" for verb in ("post", "patch") for what in ("connection", "variable")]
CHANGES += ["bulk_connections", "bulk_variables"]
# By these, a pickle has code called when it is loaded.
CALLS = {"GLOBAL", "STACK_GLOBAL", "INST", "REDUCE", "EXT1", "EXT2", "EXT4"}


def day(when: datetime | None, otherwise: str = "never") -> str:
    """Show a date and a time, to the minute."""
    return f"{when:%Y-%m-%d %H:%M}" if when else otherwise


def plain(value: object) -> str:
    """Show a text without the signs that a terminal would obey."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(value))


def accounts(session: Session) -> Iterator[str]:
    """Yield the accounts: admins first, and the newest of each kind, with those whose age nobody knows."""
    of_groups: dict[int, set[str]] = defaultdict(set)
    for group in session.scalars(select(Group)):
        for user in group.users:
            of_groups[user.id] |= {role.name for role in group.roles}
    users = [(user, {role.name for role in user.roles} | of_groups[user.id]) for user in session.scalars(select(User))]
    users.sort(key=lambda pair: pair[0].created_on or datetime.max, reverse=True)
    for user, roles in sorted(users, key=lambda pair: "Admin" not in pair[1]):
        yield (
            f"{user.username}: {', '.join(sorted(roles)) or 'no role'}; {'active' if user.active else 'not active'}, "
            f"created {day(user.created_on, 'at no known time')}, last login {day(user.last_login)}"
        )


def roles(session: Session) -> Iterator[str]:
    """Yield the roles, by how much each may do."""
    found = session.scalars(select(Role)).unique()
    for role in sorted(found, key=lambda role: -len(role.permissions)):
        yield f"{role.name}: {len(role.permissions)} permissions"


def sessions(session: Session) -> Iterator[str]:
    """Yield how many sessions of browsers and revoked tokens there are."""
    expiry = sql_column("expiry", DateTime)
    number, first, last = session.execute(
        select(func.count(), func.min(expiry), func.max(expiry)).select_from(table("session"))
    ).one()
    yield f"{number} sessions of browsers" + (f", which expire from {day(first)} to {day(last)}" if number else "")
    yield f"{session.scalar(select(func.count()).select_from(RevokedToken))} tokens were revoked"
    yield "tokens that are valid are kept nowhere: a rotation of jwt_secret ends all"


def triggers(session: Session) -> Iterator[str]:
    """Yield the classes that the triggerer runs, and how many of their triggers nobody waits for."""
    waits = or_(Trigger.task_instance.has(), Trigger.asset_watchers.any(), Trigger.callback.has())
    rows = session.execute(
        select(
            Trigger.classpath,
            func.count(),
            func.count().filter(~waits),
            func.min(Trigger.created_date),
            func.max(Trigger.created_date),
        ).group_by(Trigger.classpath)
    )
    for path, number, alone, first, last in rows:
        yield f"{path}: {number}, of which nothing waits for {alone}, created {day(first)} to {day(last)}"


def callbacks(session: Session) -> Iterator[str]:
    """Yield the functions that Airflow is to call, of callbacks that wait and of deadlines."""
    waiting = or_(Callback.state.in_(ACTIVE_STATES), Callback.state.is_(None), Callback.state == "scheduled")
    for kind, statement in {
        "callback": select(type_coerce(Callback.data, JSON)).where(waiting),
        "deadline": select(DeadlineAlert.callback_def),
    }.items():
        found = Counter(path_of(data) for data in session.scalars(statement))
        yield from (f"{path}: {number} ({kind})" for path, number in sorted(found.items()))


def path_of(data: object) -> str:
    """Find the path of a function in the data of a callback, which may wrap it."""
    if not isinstance(data, dict):
        return "unknown"
    return str(data["path"]) if "path" in data else path_of(data.get("__data__") or data.get("__var"))


def pickles(session: Session) -> Iterator[str]:
    """Yield the executor_config of tasks that would call code when a scheduler reads it."""
    raw = type_coerce(TaskInstance.executor_config, LargeBinary)
    for content, number, dag_id in session.execute(
        select(raw, func.count(), func.min(TaskInstance.dag_id)).group_by(raw)
    ):
        if content and calls(bytes(content)):
            yield f"{number} tasks, one of them of {dag_id}, have an executor_config that calls code"


def calls(content: bytes) -> bool:
    """Tell whether a pickle calls code, without loading it."""
    try:
        return any(code.name in CALLS for code, _, _ in pickletools.genops(content))
    except ValueError:
        return True


def changes(session: Session) -> dict[str, str]:
    """Tell of connections and variables who last changed them by the API, as far as the audit log goes back."""
    last = {}
    rows = select(Log.dttm, Log.owner, Log.event, Log.extra).where(Log.event.in_(CHANGES)).order_by(Log.dttm)
    for when, owner, event, extra in session.execute(rows):
        try:
            told = json.loads(extra or "{}")
        except ValueError:
            told = {}
        for name in names_in(told):
            last[f"{'connection' if 'connection' in event else 'variable'} {name}"] = f"{day(when)} by {owner}"
    return last


def names_in(extra: object) -> Iterator[str]:
    """Yield the connections and variables that an entry of the audit log names."""
    if isinstance(extra, dict):
        yield from (str(extra[name]) for name in ("connection_id", "variable_key", "key") if name in extra)
        extra = [*extra.values()]
    if isinstance(extra, list):
        for item in extra:
            yield from names_in(item)


def names(session: Session, kind: str) -> Iterator[str]:
    """Yield the names of the database's connections or variables."""
    last = changes(session)
    found = select(Connection.conn_id) if kind == "connection" else select(Variable.key)
    for name in session.scalars(found.order_by(text("1"))):
        yield f"{name}: last changed by the API {last.get(f'{kind} {name}', 'never, or before the audit log begins')}"


def pools(session: Session) -> Iterator[str]:
    """Yield the pools."""
    for name, slots in session.execute(select(Pool.pool, Pool.slots).order_by(Pool.pool)):
        yield f"{name}: {slots} slots"


def release_dags() -> tuple[set[str], list[str]]:
    """Import the DAGs of the live release.

    Returns:
        their ids, and the files that do not import.
    """
    ids: set[str] = set()
    faults: list[str] = []
    for bundle in DagBundlesManager().get_all_dag_bundles():
        bundle.initialize()
        bag = BundleDagBag(bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
        ids |= bag.dags.keys()
        faults += bag.import_errors
    return ids, faults


def dags(session: Session, ids: set[str], faults: list[str]) -> Iterator[str]:
    """Yield the DAGs of the database that are not the release's, or are not what their digest says.

    Args:
        session: of the database.
        ids: the DAGs of the release.
        faults: the files of the release that do not import.
    """
    yield from (f"{file} does not import: its DAGs count as not in the release" for file in faults)
    rows = select(DagModel.dag_id, DagModel.relative_fileloc, DagModel.is_stale, DagModel.last_parsed_time)
    known = {dag_id: (file, stale, parsed) for dag_id, file, stale, parsed in session.execute(rows)}
    serialized = set(session.scalars(select(SerializedDagModel.dag_id).distinct()))
    foreign = (known.keys() | serialized) - ids
    for dag_id in sorted(foreign, key=lambda dag_id: (known.get(dag_id, ("", False))[1], dag_id)):
        file, stale, parsed = known.get(dag_id, ("no file", False, None))
        state = "stale, as of a DAG that was removed" if stale else "not stale: Airflow takes it for one that is there"
        yield f"{dag_id}: not in the release; {file}, last parsed {day(parsed)}, {state}"
    columns = (SerializedDagModel.dag_id, SerializedDagModel.last_updated, SerializedDagModel.dag_hash)
    data = (SerializedDagModel._data, SerializedDagModel._data_compressed)
    for dag_id, updated, digest, content, packed in session.execute(select(*columns, *data)).yield_per(50):
        if digest_of(content, packed) != digest:
            yield f"{dag_id}: its serialized form of {day(updated)} is not the one that its digest was made of"


def digest_of(content: dict | None, packed: bytes | None) -> str:
    """Make the digest of a serialized DAG, or none if it is no DAG."""
    try:
        return SerializedDagModel.hash(content or json.loads(zlib.decompress(packed or b"")))
    except Exception:
        return ""


def sections(session: Session, ids: set[str], faults: list[str]) -> dict[str, list[str]]:
    """List everything.

    Args:
        session: of the database.
        ids: the DAGs of the release.
        faults: the files of the release that do not import.

    Returns:
        lines, by title.
    """
    found = {
        "Accounts, admins first": accounts(session),
        "Roles": roles(session),
        "Sessions and tokens": sessions(session),
        "Triggers, which the triggerer runs": triggers(session),
        "Functions that callbacks and deadlines call": callbacks(session),
        "Tasks whose row in the database calls code": pickles(session),
        "DAGs that are not the release's": dags(session, ids, faults),
        "Connections in the database": names(session, "connection"),
        "Variables in the database": names(session, "variable"),
        "Pools": pools(session),
    }
    return {title: readable(lines) for title, lines in found.items()}


def readable(lines: Iterator[str]) -> list[str]:
    """List the lines of a section, up to a row that an intruder has made unreadable."""
    shown = []
    try:
        shown.extend(plain(line) for line in lines)
    except Exception as error:
        shown.append(f"the rest cannot be read: {type(error).__name__}")
    return shown or ["none"]


def main() -> None:
    """Print it, and nothing else: Airflow and DAG files write to standard output, too."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        ids, faults = release_dags()
        with create_session() as session:
            if session.get_bind().dialect.name == "postgresql":
                session.execute(text("SET TRANSACTION READ ONLY"))
            print(json.dumps(sections(session, ids, faults)), file=out)


if __name__ == "__main__":
    main()
