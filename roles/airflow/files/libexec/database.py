"""The database of Airflow's environment, without Airflow's own libraries, whose import takes seconds."""

import os

import psycopg2
from psycopg2.extensions import connection

CONNECT_SECONDS = 10
STATEMENT_SECONDS = 20


def connect() -> connection:
    """Connect, so that no question to it waits without bound.

    Returns:
        The connection.

    Raises:
        psycopg2.OperationalError: The database does not answer.
    """
    url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "", 1)
    bounds = {"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": 1000 * STATEMENT_SECONDS}
    return psycopg2.connect(url, **bounds, options=f"-c statement_timeout={STATEMENT_SECONDS}s")
