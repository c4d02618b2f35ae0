"""What the tests of the DAGs share. `make test-dags` gives them an Airflow of their own."""

import subprocess
import sys
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG

DAGS = Path(__file__).parents[1]


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
