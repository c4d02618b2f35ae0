"""Settle what a scheduler that has ended leaves in the database, however it ended.

Its processes are gone, so nobody has what it queued, and another scheduler may. After a crash its row goes on saying
that it runs, and nobody would take its tasks for lost before its heartbeat is old: the row is ended, and the next
scheduler resets them when it starts.

Usage, as ExecStopPost=: settle.py <unit>
"""

import sys
import time

import psycopg2
from database import connect
from lvao_notify import job_of

TRIES = 3
SECONDS_BETWEEN_TRIES = 5
GIVE_BACK = """
UPDATE task_instance
SET state = 'scheduled', queued_by_job_id = NULL, queued_dttm = NULL, external_executor_id = NULL
WHERE queued_by_job_id = %s AND state = 'queued'
"""
END = """
UPDATE job SET state = 'failed', end_date = now() WHERE id = %s AND job_type = 'SchedulerJob' AND state = 'running'
"""


def settle(job: int) -> tuple[int, bool]:
    """Give back what a scheduler has queued, and end its row.

    Args:
        job: The row in the table `job`.

    Returns:
        How many tasks it had queued, and whether the row said that it still runs.

    Raises:
        psycopg2.Error: The database does not answer.
    """
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(GIVE_BACK, [job])
        queued = cursor.rowcount
        cursor.execute(END, [job])
        return queued, bool(cursor.rowcount)


def main(unit: str) -> int:
    """Settle what the unit's last scheduler leaves.

    Args:
        unit: Its name.

    Returns:
        The exit status.
    """
    job = job_of(unit)
    # It ended before it was one.
    if job is None:
        return 0
    for _ in range(TRIES):
        try:
            queued, ran = settle(job)
        except psycopg2.Error as error:
            print(f"The database does not answer: {type(error).__name__}", flush=True)
            time.sleep(SECONDS_BETWEEN_TRIES)
            continue
        if queued or ran:
            print(
                f"Settled job {job}: {queued} queued task(s) given back, {'crashed' if ran else 'ended'}.", flush=True
            )
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
