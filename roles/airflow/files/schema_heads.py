"""Print as JSON the version of the installed Airflow, and the database revision that it wants by version table."""

import json
from pathlib import Path

import airflow
from airflow.providers.fab import migrations as fab_migrations
from alembic.script import ScriptDirectory

SCRIPTS = {
    "alembic_version": Path(airflow.__file__).parent / "migrations",
    "alembic_version_fab": Path(fab_migrations.__file__).parent,
}

heads = {table: ScriptDirectory(str(path)).get_current_head() for table, path in SCRIPTS.items()}
print(json.dumps({"airflow_version": airflow.__version__, "heads": heads}))
