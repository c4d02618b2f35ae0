"""Builds the warehouse's models with dbt, inside a task."""

import os

from airflow.sdk import dag, task
from enrich.names import TOPIC

# A release is read-only.
PLACES = {name: f"{os.environ['WORK_DIRECTORY']}/{name}" for name in ("DBT_TARGET_PATH", "DBT_LOG_PATH")}


@dag(schedule=None)
def enrich_shops() -> None:
    """Build models, and test them."""

    @task.bash(env=PLACES, append_env=True)
    def build() -> str:
        return f"echo {TOPIC} && dbt build --no-use-colors"

    build()


enrich_shops()
