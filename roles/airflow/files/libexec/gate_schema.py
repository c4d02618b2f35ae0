"""Whether the database has the schema that a release wants, or can be migrated to it.

As a script, with the release's own Python, it ends with 0 if the database has it, with 75 if nobody can tell now, and
with 1 if it has another.
"""

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import airflow
from airflow import settings
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.providers.fab import migrations as fab_migrations
from airflow.providers.fab.auth_manager import models as fab_models
from airflow.utils.db import DBLocks
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, bindparam, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

SCRIPTS = {
    "alembic_version": Path(airflow.__file__).parent / "migrations",
    "alembic_version_fab": Path(fab_migrations.__file__).parent,
}
CONNECT_SECONDS = 10
STATEMENT_SECONDS = 10


@dataclass
class Schema:
    """The revisions of a database, by version table.

    Attributes:
        wanted: what the release wants.
        found: what the database has, None where it has nothing yet.
        unknown_revision: of `found`, what the release does not know.
        faults: why the release cannot use it, nor migrate it.
        is_migrated: whether a migration is under way.
    """

    wanted: dict[str, str | None] = field(default_factory=dict)
    found: dict[str, str | None] = field(default_factory=dict)
    unknown_revision: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    is_migrated: bool = False

    @property
    def facts(self) -> dict[str, dict]:
        """What is reported of a schema without faults."""
        return {"wanted": self.wanted, "found": self.found, "unknown_revision": self.unknown_revision}


def compare(
    connection: Connection, scripts: Mapping[str, ScriptDirectory], *, allow_newer_schema: bool = False
) -> Schema:
    """Compare the revisions of a database with a release's migration scripts.

    Args:
        connection: to the database.
        scripts: the release's migration scripts, by version table.
        allow_newer_schema: whether a revision that the release does not know is no fault.
    """
    schema = Schema()
    for table, script in scripts.items():
        head = script.get_current_head()
        heads = MigrationContext.configure(connection, opts={"version_table": table}).get_current_heads()
        schema.wanted[table] = head
        schema.found[table] = ", ".join(sorted(heads)) or None
        if len(heads) > 1:
            schema.faults.append(f"the database is at several revisions at once ({table}): {schema.found[table]}")
        elif heads and (fault := unreachable(script, heads[0])):
            if fault == UNKNOWN:
                schema.unknown_revision[table] = heads[0]
            if fault != UNKNOWN or not allow_newer_schema:
                schema.faults.append(f"the database is at revision {heads[0]} ({table}), {fault}")
    return schema


UNKNOWN = "which this release does not know: a newer release has migrated it, or it is too old to be upgraded from"


def unreachable(script: ScriptDirectory, revision: str) -> str:
    """Say why a release's migrations do not lead from a revision to the release's head, or nothing if they do."""
    head = script.get_current_head()
    if revision in {known.revision for known in script.iterate_revisions(head, "base")}:
        return ""
    if revision in {known.revision for known in script.walk_revisions()}:
        return f"from which no migration leads to this release's {head}"
    return UNKNOWN


def refused(connection: Connection, tables: Iterable[str]) -> list[str]:
    """Say why the user of a PostgreSQL database may not migrate it, or nothing if it may.

    Args:
        connection: to the database.
        tables: the tables that a migration may alter; those that there are not yet do not matter.
    """
    user, schema, creates = connection.execute(
        text("SELECT current_user, current_schema(), has_schema_privilege(current_schema(), 'CREATE')")
    ).one()
    if schema is None:
        return [f"a migration is needed, but the database user {user} finds no schema in its search_path"]
    faults = []
    if not creates:
        faults.append(f"a migration is needed, but the database user {user} may not create tables in schema {schema}")
    # Who has the rights of the owner, as a member of its role, may alter a table, too.
    others = connection.execute(
        text(
            "SELECT relname, pg_get_userbyid(relowner) FROM pg_class"
            " WHERE relnamespace = to_regnamespace(quote_ident(current_schema())) AND relkind IN ('r', 'p')"
            " AND relname IN :tables AND NOT pg_has_role(relowner, 'USAGE') ORDER BY relname"
        ).bindparams(bindparam("tables", expanding=True)),
        {"tables": sorted(tables)},
    ).all()
    if others:
        (table, owner), number = others[0], len(others)
        faults.append(
            f"a migration is needed, but the database user {user} does not own {number}"
            f" of Airflow's tables, such as {table} of {owner}"
        )
    return faults


def is_locked(connection: Connection) -> bool:
    """Say whether a migration holds its lock on a PostgreSQL database.

    Args:
        connection: to the database.
    """
    query = (
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database"
        " WHERE locktype = 'advisory' AND granted AND objid = :lock AND datname = current_database()"
    )
    return bool(connection.scalar(text(query), {"lock": DBLocks.MIGRATIONS.value}))


def check(*, allow_newer_schema: bool = False) -> Schema:
    """Check the database of Airflow's configuration.

    Args:
        allow_newer_schema: whether a revision that the release does not know is no fault.

    Returns:
        the revisions, and the faults; a database that does not answer is one.
    """
    scripts = {table: ScriptDirectory(str(path)) for table, path in SCRIPTS.items()}
    arguments = settings._get_connect_args("sync")
    if settings.SQL_ALCHEMY_CONN.startswith("postgresql"):
        arguments = {"connect_timeout": CONNECT_SECONDS} | arguments
    engine = settings.create_metadata_engine(
        settings.SQL_ALCHEMY_CONN, engine_args={"poolclass": NullPool}, connect_args=arguments
    )
    try:
        with engine.connect() as connection:
            is_postgresql = connection.dialect.name == "postgresql"
            if is_postgresql:
                connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'"))
            schema = compare(connection, scripts, allow_newer_schema=allow_newer_schema)
            schema.is_migrated = is_postgresql and is_locked(connection)
            if is_postgresql and not schema.unknown_revision and schema.found != schema.wanted:
                import_all_models()
                schema.faults += refused(
                    connection, {*Base.metadata.tables, *fab_models.Model.metadata.tables, *SCRIPTS}
                )
            return schema
    except SQLAlchemyError as error:
        return Schema(faults=[f"the database cannot be read: {getattr(error, 'orig', None) or type(error).__name__}"])


if __name__ == "__main__":
    has = check(allow_newer_schema=True)
    if has.is_migrated or not has.found:
        sys.exit(os.EX_TEMPFAIL)
    sys.exit(bool(has.faults) or has.found != has.wanted)
