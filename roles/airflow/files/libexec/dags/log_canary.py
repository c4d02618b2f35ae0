"""Proves that tasks run and that their logs reach the bucket.

A deploy triggers it with a random `token`, and then looks for the token in the bucket and in Airflow's own log page.
"""

import logging
import secrets
from datetime import timedelta

import pendulum
from airflow.sdk import Param, conf, dag, get_current_context, task

log = logging.getLogger(__name__)

# Where there is none, as in tests of DAGs, it runs like any other.
OWN_SLOT = {"executor": "canary", "pool": "canary"} if "canary:" in conf.get("core", "executor") else {}


@dag(
    description="Logs a random token, which proves that tasks run and that their logs are stored",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Europe/Paris"),
    catchup=False,
    # A deploy triggers it as soon as it is there.
    is_paused_upon_creation=False,
    # A run that hangs must not hold up that of the next deploy.
    max_active_runs=4,
    dagrun_timeout=timedelta(minutes=5),
    tags=["platform"],
    default_args={"owner": "platform", "retries": 0, "execution_timeout": timedelta(minutes=1)},
    params={"token": Param("", type="string", description="What to log; a random token by default")},
    doc_md=f"{__doc__}\nRetries: none, for a canary that needs a second try has failed.",
)
def log_canary() -> None:
    """Log a token."""

    # A slot and a pool of its own: a deploy on a busy afternoon waits for it.
    @task(**OWN_SLOT, priority_weight=1_000_000, weight_rule="absolute")
    def write_token() -> str:
        """Log the token of the run.

        Returns:
            The token.
        """
        token = get_current_context()["params"]["token"] or secrets.token_hex(16)
        log.info("log canary: %s", token)
        return token

    write_token()


log_canary()
