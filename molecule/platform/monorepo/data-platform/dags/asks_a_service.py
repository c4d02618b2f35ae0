"""Asks a service while it is imported, and fails where that does not answer."""

import os

import requests
from airflow.sdk import DAG, task

ANSWER = requests.get(os.environ["CATALOGUE_URL"], timeout=5)
ANSWER.raise_for_status()

with DAG("asks_a_service", schedule=None):

    @task
    def show() -> str:
        """Show what the service said."""
        return ANSWER.text

    show()
