"""A DAG whose task runs while something happens to what is around it, and then says with which code it did."""

from contextlib import suppress
from datetime import datetime
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep

from airflow.sdk import Connection, Param, dag, get_current_context, task


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1),
    is_paused_upon_creation=False,
    params={
        "seconds": Param(1),
        "until": Param("/nonexistent", description="A file that ends the sleep"),
        "connection": Param("", description="One whose password is to be the same before and after"),
    },
)
def sleeper() -> None:
    """Say so, and sleep."""

    # As a DAG may that comes from elsewhere; or by its short name.
    @task(task_id="sleep", executor="airflow.executors.local_executor.LocalExecutor")
    def say_and_sleep() -> None:
        params = get_current_context()["params"]
        before = Connection.get(params["connection"]).password if params["connection"] else ""
        print("the sleeper sleeps", flush=True)
        end = monotonic() + params["seconds"]
        while monotonic() < end and not Path(params["until"]).exists():
            sleep(0.2)
        if before and before == Connection.get(params["connection"]).password:
            print("the sleeper found its connection", flush=True)
        # Where a test has put a file of this name beside it.
        with suppress(ModuleNotFoundError):
            print("edition:", import_module("edition").EDITION, flush=True)

    say_and_sleep()


sleeper()
