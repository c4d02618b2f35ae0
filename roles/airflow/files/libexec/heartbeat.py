"""Whether a scheduler has a heartbeat, as the database knows it.

It is asked every minute, and while one starts: Airflow's own libraries would take some seconds to import.

Usage: heartbeat.py <the scheduler's row in the table job> <seconds>

It ends with 0 if there was one within so many seconds, with 69 if there was none, and with 75 if nobody can tell, or if
there has not been one yet.
"""

import os
import sys
import time

import psycopg2
from database import connect

# The row has a heartbeat before the scheduler's loop has any.
LATEST = "SELECT extract(epoch FROM latest_heartbeat), latest_heartbeat > start_date FROM job WHERE id = %s"


def heartbeat_age(job: int) -> float | None:
    """Ask the database of Airflow's environment.

    Args:
        job: The scheduler's row in the table `job`.

    Returns:
        How long ago its last heartbeat was, in seconds, or None if it has had none yet.

    Raises:
        psycopg2.Error: The database does not answer.
    """
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(LATEST, [job])
        latest, has_begun = cursor.fetchone() or (None, False)
    # By the clock that the scheduler itself writes, not the database's.
    return time.time() - float(latest) if has_begun else None


if __name__ == "__main__":
    try:
        age = heartbeat_age(int(sys.argv[1]))
    except psycopg2.Error:
        age = None
    if age is None:
        sys.exit(os.EX_TEMPFAIL)
    sys.exit(0 if age < float(sys.argv[2]) else os.EX_UNAVAILABLE)
