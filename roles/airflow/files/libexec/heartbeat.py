"""Whether a scheduler of this host has a heartbeat, as the database knows it.

It is asked every minute, and while one starts: Airflow's own libraries would take some seconds to import.

Usage: heartbeat.py <when the process began, in seconds since 1970> <seconds>

It ends with 0 if there was one within so many seconds, with 69 if there was none, and with 75 if nobody can tell, or if
there has not been one yet.
"""

import importlib
import os
import socket
import sys
import time

import psycopg2

# The one that began first, as drain.py knows it. Its row, which comes after its start, has one before its loop has any.
LATEST = """
SELECT extract(epoch FROM latest_heartbeat), latest_heartbeat > start_date FROM job
WHERE job_type = 'SchedulerJob' AND hostname = %s AND start_date >= to_timestamp(%s - 1)
ORDER BY start_date LIMIT 1
"""
CONNECT_SECONDS = 10


def host_name() -> str:
    """Tell what Airflow calls this host, as its own `get_hostname` does.

    Returns:
        A name, or what else its setting `hostname_callable` makes of it.
    """
    if setting := os.environ.get("AIRFLOW__CORE__HOSTNAME_CALLABLE"):
        module, _, function = setting.rpartition(".")
        return getattr(importlib.import_module(module), function)()
    name = socket.gethostname()
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM, flags=socket.AI_CANONNAME)
    except OSError:
        return name
    return found[0][3] or name


def heartbeat_age(began: float) -> float | None:
    """Ask the database of Airflow's environment.

    Args:
        began: When the scheduler's process began, in seconds since 1970.

    Returns:
        How long ago its last heartbeat was, in seconds, or None if it has had none yet.

    Raises:
        psycopg2.OperationalError: The database does not answer.
    """
    url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "", 1)
    with psycopg2.connect(url, connect_timeout=CONNECT_SECONDS) as connection, connection.cursor() as cursor:
        cursor.execute(LATEST, (host_name(), began))
        latest, has_begun = cursor.fetchone() or (None, False)
    # By the clock that the scheduler itself writes, not the database's.
    return time.time() - float(latest) if has_begun else None


if __name__ == "__main__":
    try:
        age = heartbeat_age(float(sys.argv[1]))
    except psycopg2.OperationalError:
        age = None
    if age is None:
        sys.exit(os.EX_TEMPFAIL)
    sys.exit(0 if age < float(sys.argv[2]) else os.EX_UNAVAILABLE)
