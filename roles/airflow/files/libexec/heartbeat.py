"""Whether a scheduler of this host has a heartbeat, as the database knows it.

It is asked every minute: Airflow's own libraries would take some seconds to import.

Usage: heartbeat.py <when the process began, in seconds since 1970> <seconds>

It ends with 0 if there was one within so many seconds, with 69 if there was none, and with 75 if nobody can tell.
"""

import os
import socket
import sys

import psycopg2

# The one that began first, as drain.py knows it: its row comes after its start.
AGE = """
SELECT extract(epoch FROM now() - latest_heartbeat) FROM job
WHERE job_type = 'SchedulerJob' AND hostname = %s AND start_date >= to_timestamp(%s - 1)
ORDER BY start_date LIMIT 1
"""
CONNECT_SECONDS = 10


def heartbeat_age(began: float) -> float | None:
    """Ask the database of Airflow's environment.

    Args:
        began: When the scheduler's process began, in seconds since 1970.

    Returns:
        How long ago its last heartbeat was, in seconds, or None if the database does not know it.

    Raises:
        psycopg2.OperationalError: The database does not answer.
    """
    url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "", 1)
    with psycopg2.connect(url, connect_timeout=CONNECT_SECONDS) as connection, connection.cursor() as cursor:
        cursor.execute(AGE, (socket.getfqdn(), began))
        row = cursor.fetchone()
    return float(row[0]) if row else None


if __name__ == "__main__":
    try:
        age = heartbeat_age(float(sys.argv[1]))
    except psycopg2.OperationalError:
        age = None
    if age is None:
        sys.exit(os.EX_TEMPFAIL)
    sys.exit(0 if age < float(sys.argv[2]) else os.EX_UNAVAILABLE)
