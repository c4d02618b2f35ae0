"""An example to copy: fetches repair shops, keeps the valid ones and publishes a summary.

The functions that do the work know nothing of Airflow, so that a test can call them. The DAG only connects them.
"""

import logging
import re
from collections import Counter
from datetime import timedelta
from typing import TypedDict

import pendulum
from airflow.sdk import Param, dag, task
from airflow.sdk.exceptions import AirflowFailException

log = logging.getLogger(__name__)


class Shop(TypedDict):
    """A place where objects are repaired."""

    name: str
    postcode: str
    repairs: list[str]


def normalise(raw: Shop) -> Shop | None:
    """Clean one shop as its owner typed it.

    Args:
        raw: The shop as typed.

    Returns:
        The shop with tidy fields, or nothing if its name or postcode is unusable.
    """
    name, postcode = " ".join(raw["name"].split()), "".join(raw["postcode"].split())
    if not name or not re.fullmatch("[0-9]{5}", postcode):
        return None
    repairs = {repair.strip().lower() for repair in raw["repairs"]}
    return {"name": name, "postcode": postcode, "repairs": sorted(repairs - {""})}


def count_repairs(shops: list[Shop]) -> dict[str, int]:
    """Count the shops that repair each kind of object.

    Args:
        shops: Normalised shops.

    Returns:
        Number of shops by kind of object, in alphabetical order.
    """
    return dict(sorted(Counter(repair for shop in shops for repair in shop["repairs"]).items()))


@dag(
    description="Example to copy: fetch repair shops, keep the valid ones, publish a summary",
    # Every day at 5:30 in the time zone of `start_date`, summer and winter.
    schedule="30 5 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Paris"),
    catchup=False,
    max_active_runs=1,
    tags=["example"],
    default_args={
        "owner": "data",
        "retries": 2,
        "retry_delay": timedelta(minutes=5),
        "execution_timeout": timedelta(minutes=30),
    },
    params={
        "area": Param("", type="string", pattern="^[0-9]{0,5}$", description="First digits of the postcodes to keep")
    },
    doc_md=__doc__,
)
def repair_shops() -> None:
    """Connect the steps."""

    @task
    def fetch() -> list[Shop]:
        """Fetch the shops: a real DAG would ask an API or a database here, through an Airflow connection."""
        return [
            {"name": "Atelier  du Vélo", "postcode": "35 000", "repairs": ["Bicycle", "scooter"]},
            {"name": "La Fabrique", "postcode": "44000", "repairs": ["toaster", "Bicycle "]},
            {"name": "No address", "postcode": "?", "repairs": ["phone"]},
        ]

    @task
    def keep_valid(shops: list[Shop], area: str) -> list[Shop]:
        """Normalise the shops and leave out those that cannot be used."""
        valid = [shop for shop in map(normalise, shops) if shop and shop["postcode"].startswith(area)]
        log.info("%d shops of %d are kept", len(valid), len(shops))
        if not valid:
            # What was published stays; and no retry, for the same shops would fail again.
            raise AirflowFailException("No shop is left to publish")
        return valid

    @task
    def publish(shops: list[Shop]) -> dict[str, int]:
        """Publish the summary: here to the log and to XCom."""
        summary = count_repairs(shops)
        log.info("Shops by kind of object: %s", summary)
        return summary

    publish(keep_valid(fetch(), area="{{ params.area }}"))


repair_shops()
