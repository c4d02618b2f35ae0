"""Gives the tests an Airflow of their own, before anything imports it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

DAGS = Path(__file__).parents[1]
HOME = tempfile.mkdtemp(prefix="dag-tests-")

os.environ |= {
    "AIRFLOW_HOME": HOME,
    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
}


@pytest.fixture(scope="session")
def database() -> None:
    """Make an empty metadata database, which `dag.test()` needs."""
    subprocess.run([Path(sys.executable).with_name("airflow"), "db", "migrate"], check=True, capture_output=True)
