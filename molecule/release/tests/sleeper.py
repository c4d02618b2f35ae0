"""A DAG whose task runs as long as it is told to, and then says with which code it did."""

from datetime import datetime
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep

from airflow.sdk import Param, dag, get_current_context, task


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1),
    is_paused_upon_creation=False,
    params={"seconds": Param(1), "until": Param("/nonexistent", description="A file that ends the sleep")},
)
def sleeper() -> None:
    """Sleep, and import what is beside it afterwards."""

    @task(task_id="sleep")
    def sleep_and_say() -> None:
        params = get_current_context()["params"]
        end = monotonic() + params["seconds"]
        while monotonic() < end and not Path(params["until"]).exists():
            sleep(0.2)
        print("edition:", import_module("edition").EDITION, flush=True)

    sleep_and_say()


sleeper()
