"""Gives the tests an Airflow of their own, before anything imports it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

DAGS = Path(__file__).parents[1]
HOME = tempfile.TemporaryDirectory(prefix="dag-tests-")

# Settings of the caller's shell would decide what the tests find.
for name in [name for name in os.environ if name.startswith("AIRFLOW__")]:
    del os.environ[name]
os.environ |= {
    "AIRFLOW_HOME": HOME.name,
    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME.name}/airflow.db",
}

from airflow.dag_processing.dagbag import DagBag  # noqa: E402 - Airflow reads the environment above on import
from airflow.sdk import DAG  # noqa: E402 - Airflow reads the environment above on import


def pytest_configure(config: pytest.Config) -> None:
    """Hide what Airflow's own code is warned of: warnings are about our DAGs."""
    for module in ("airflow", "fastapi", "pathspec"):
        config.addinivalue_line("filterwarnings", rf"ignore:.*deprecated::{module}\.")


@pytest.fixture(scope="session")
def database() -> None:
    """Make an empty metadata database, which `dag.test()` needs."""
    subprocess.run([Path(sys.executable).with_name("airflow"), "db", "migrate"], check=True, capture_output=True)


@pytest.fixture
def dags(database: None) -> dict[str, DAG]:
    """Load the DAGs of the project, ready to run; anew for each test, as a run leaves its parameters in its DAG."""
    return DagBag(DAGS).dags
