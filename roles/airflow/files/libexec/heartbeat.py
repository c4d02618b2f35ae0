"""Whether a scheduler of this host has a heartbeat, as the database knows it.

It is asked every minute, and while one starts: Airflow's own libraries would take some seconds to import.

Usage: heartbeat.py <when the process began, in seconds since 1970> <seconds>

It ends with 0 if there was one within so many seconds, with 69 if there was none, and with 75 if nobody can tell, or if
there has not been one yet.
"""

import os
import socket
import sys

import psycopg2

# The one that began first, as drain.py knows it. Its row, which comes after its start, has one before its loop has any.
AGE = """
SELECT extract(epoch FROM now() - latest_heartbeat), latest_heartbeat > start_date FROM job
WHERE job_type = 'SchedulerJob' AND hostname = ANY(%s) AND start_date >= to_timestamp(%s - 1)
ORDER BY start_date LIMIT 1
"""
CONNECT_SECONDS = 10


def host_names() -> list[str]:
    """List what Airflow may call this host, by each value of its setting `hostname_callable` that it documents.

    Returns:
        Names, and an address.

    Raises:
        OSError: The host's name does not resolve.
    """
    name = socket.gethostname()
    canonical = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM, flags=socket.AI_CANONNAME)[0][3]
    return [name, socket.getfqdn(), canonical, socket.gethostbyname(canonical)]


def heartbeat_age(began: float) -> float | None:
    """Ask the database of Airflow's environment.

    Args:
        began: When the scheduler's process began, in seconds since 1970.

    Returns:
        How long ago its last heartbeat was, in seconds, or None if it has had none yet.

    Raises:
        psycopg2.OperationalError: The database does not answer.
        OSError: The host's name does not resolve.
    """
    url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "", 1)
    with psycopg2.connect(url, connect_timeout=CONNECT_SECONDS) as connection, connection.cursor() as cursor:
        cursor.execute(AGE, (host_names(), began))
        age, has_begun = cursor.fetchone() or (None, False)
    return float(age) if has_begun else None


if __name__ == "__main__":
    try:
        age = heartbeat_age(float(sys.argv[1]))
    except (psycopg2.OperationalError, OSError):
        age = None
    if age is None:
        sys.exit(os.EX_TEMPFAIL)
    sys.exit(0 if age < float(sys.argv[2]) else os.EX_UNAVAILABLE)
