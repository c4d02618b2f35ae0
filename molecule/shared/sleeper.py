"""A DAG whose task runs while something happens to what is around it."""

from datetime import datetime
from time import sleep

from airflow.sdk import dag, task


@dag(schedule=None, start_date=datetime(2026, 1, 1), is_paused_upon_creation=False)
def sleeper() -> None:
    """Say so, and sleep."""

    @task(task_id="sleep")
    def say_and_sleep() -> None:
        print("the sleeper sleeps", flush=True)
        sleep(15)

    say_and_sleep()


sleeper()
