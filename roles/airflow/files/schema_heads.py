"""Print the database revisions that the installed Airflow wants, as a JSON mapping from version table to revision."""

import json
from pathlib import Path

import airflow
from airflow.providers.fab import migrations as fab_migrations
from alembic.script import ScriptDirectory

SCRIPTS = {
    "alembic_version": Path(airflow.__file__).parent / "migrations",
    "alembic_version_fab": Path(fab_migrations.__file__).parent,
}

print(json.dumps({table: ScriptDirectory(str(path)).get_current_head() for table, path in SCRIPTS.items()}))
