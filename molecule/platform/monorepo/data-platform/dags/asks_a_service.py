"""Asks a service while it is imported, and fails where that does not answer."""

import os
import urllib.request

from airflow.sdk import DAG, task

with urllib.request.urlopen(os.environ["CATALOGUE_URL"], timeout=5) as answer:  # noqa: S310 - the site's own service
    CATALOGUE = answer.read().decode()

with DAG("asks_a_service", schedule=None):

    @task
    def show() -> str:
        """Show what the service said."""
        return CATALOGUE

    show()
