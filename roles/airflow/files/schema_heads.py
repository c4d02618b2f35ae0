"""Print as JSON the version of the installed Airflow, and the database revision that it wants by version table.

It is kept beside the packages, which never change, for the import of Airflow takes some seconds. Whoever changes what
is read here gives the file another name, too.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

if not Path(sys.prefix, "schema_heads.json").exists():
    # Airflow makes its home directory when it is imported: without this, /root/airflow.
    home = tempfile.TemporaryDirectory()
    os.environ["AIRFLOW_HOME"] = home.name
    import airflow
    from airflow.providers.fab import migrations as fab_migrations
    from alembic.script import ScriptDirectory

    SCRIPTS = {
        "alembic_version": Path(airflow.__file__).parent / "migrations",
        "alembic_version_fab": Path(fab_migrations.__file__).parent,
    }
    heads = {table: ScriptDirectory(str(path)).get_current_head() for table, path in SCRIPTS.items()}
    new = Path(sys.prefix, "schema_heads.new")
    new.write_text(json.dumps({"airflow_version": airflow.__version__, "heads": heads}))
    new.rename(Path(sys.prefix, "schema_heads.json"))

print(Path(sys.prefix, "schema_heads.json").read_text())
