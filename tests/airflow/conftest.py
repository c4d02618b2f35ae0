"""Gives the tests an Airflow of their own, before anything imports it, and what the role installs next to it."""

import os
import sys
import tempfile
from pathlib import Path

HOME = tempfile.TemporaryDirectory(prefix="airflow-tests-")

# Settings of the caller's shell would decide what the tests find.
for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
    del os.environ[name]
os.environ |= {
    "AIRFLOW_HOME": HOME.name,
    "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME.name}/airflow.db",
}
LIBEXEC = Path(__file__).parents[2] / "roles/airflow/files/libexec"
sys.path += [str(LIBEXEC), str(LIBEXEC / "python"), str(Path(__file__).parents[2] / "bin")]
