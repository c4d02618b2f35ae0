"""Reads shops, with the application's own model. It has no owner, and its tasks are tried once."""

from pathlib import Path

import colours
from airflow.sdk import dag, task
from ingest.names import TOPIC
from ratelimit import limits
from repairs.models import Shop

# Beside the DAGs, in a checkout as on a host.
TEXT = (Path(__file__).parents[2] / "texts/ingest.md").read_text()


@limits(calls=10, period=1)
def read() -> Shop:
    """Read a shop, ten times a second at most."""
    return Shop("La Fabrique", "Lyon")


@dag(schedule=None, doc_md=TEXT)
def ingest_shops() -> None:
    """Read shops."""

    @task
    def store() -> str:
        shop = read()
        print(f"{TOPIC}: {shop.slug()} is {colours.BY_CITY[shop.city]}")
        return shop.slug()

    store()


ingest_shops()
