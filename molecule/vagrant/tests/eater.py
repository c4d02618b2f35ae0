"""A DAG whose task takes more memory than there is."""

from datetime import datetime

from airflow.sdk import dag, task


@dag(schedule=None, start_date=datetime(2026, 1, 1), is_paused_upon_creation=False)
def eater() -> None:
    """Eat, until something ends it."""

    @task(task_id="eat")
    def eat() -> None:
        eaten = []
        while True:
            eaten.append(bytearray(b"x" * 10_000_000))

    eat()


eater()
