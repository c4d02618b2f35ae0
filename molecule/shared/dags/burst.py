"""Many tasks at once, of which few have a slot."""

import time

import pendulum
from airflow.sdk import Param, dag, get_current_context, task


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Paris"),
    is_paused_upon_creation=False,
    max_active_tasks=500,
    params={"tasks": Param(150, type="integer"), "seconds": Param(20, type="integer")},
)
def burst() -> None:
    """Sleep in many tasks."""

    @task
    def numbers() -> list[int]:
        return list(range(get_current_context()["params"]["tasks"]))

    # Anything else comes first.
    @task(task_id="sleep", pool="burst", priority_weight=0, weight_rule="absolute")
    def sleep(number: int) -> None:
        print("task", number, flush=True)
        time.sleep(get_current_context()["params"]["seconds"])

    sleep.expand(number=numbers())


burst()
