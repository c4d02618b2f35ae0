"""Builds the warehouse's models with dbt, inside a task."""

import os
import subprocess

from airflow.sdk import dag, task
from enrich.names import TOPIC


@dag(schedule=None)
def enrich_shops() -> None:
    """Build models, and test them."""

    @task
    def build() -> None:
        places = {name: f"{os.environ['WORK_DIRECTORY']}/{name}" for name in ("DBT_TARGET_PATH", "DBT_LOG_PATH")}
        command = ["dbt", "build", "--no-use-colors"]
        ended = subprocess.run(  # noqa: S603 - a command of ours
            command, env=os.environ | places, check=False, capture_output=True, text=True
        )
        print(TOPIC, ended.stdout, ended.stderr)
        ended.check_returncode()

    build()


enrich_shops()
