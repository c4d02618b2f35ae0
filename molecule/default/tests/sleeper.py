"""A DAG whose task runs while its scheduler is told to stop."""

from datetime import datetime
from time import sleep

from airflow.sdk import dag, task


@dag(schedule=None, start_date=datetime(2026, 1, 1), is_paused_upon_creation=False)
def sleeper() -> None:
    """Sleep."""
    task(task_id="sleep")(lambda: sleep(15))()


sleeper()
