"""Stay with a scheduler that was told to stop, until the tasks that it runs have ended and it ends.

Its heartbeat stops while it drains, and another scheduler would take its tasks for lost and run them again, at its own
start or at its next look for orphans. So the heartbeat is kept here, as long as the process lives. What it waits for
is shown by `systemctl status`. One that has not heard its signal is sent it again, until it ignores it, as its
executor has it do. Once no worker has a task it is killed if it does not end: Airflow's handler of the signal logs, and
waits for itself for ever if that came amid a line of the log. What it has queued then, settle.py gives back.

One that a deploy retired, with the file `retired` beside what root noted at its start, has all the time that its tasks
take. Else, and while the host shuts down, it is killed past a bound. TimeoutStopSec= could not tell these apart, and
systemd forgets at each reload that it was extended.

Usage, as ExecStop= after the signal: drain.py <unit> <bound in seconds> [<process id of the scheduler>]
"""

import math
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from airflow.jobs.job import Job
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from lvao_notify import job_of, say
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

SECONDS_BETWEEN_HEARTBEATS = 5
TASKS_SHOWN = 5
SECONDS_TO_END = 60


class Scheduler:
    """A scheduler as the database knows it.

    Args:
        job: Its row in the table `job`, or None if nobody knows that.
    """

    def __init__(self, job: int | None) -> None:
        """Know it by its row."""
        self.job = job

    def keep_alive(self) -> str:
        """Keep its heartbeat, and list its tasks.

        Returns:
            What it waits for, in one line.
        """
        if self.job is None:
            return "waits for its workers"
        with create_session() as session:
            unfinished = TaskInstance.state.in_(("queued", "running", "restarting"))
            found = session.scalars(select(TaskInstance).where(TaskInstance.queued_by_job_id == self.job, unfinished))
            tasks = [f"{task.dag_id}.{task.task_id} ({task.run_id})" for task in found]
            # After what a database that hangs would have held up.
            session.execute(update(Job).where(Job.id == self.job).values(latest_heartbeat=datetime.now(UTC)))
        more = f" and {len(tasks) - TASKS_SHOWN} more" if len(tasks) > TASKS_SHOWN else ""
        return f"waits for {len(tasks)} task(s): {', '.join(tasks[:TASKS_SHOWN])}{more}" if tasks else "ends"


def shuts_down() -> bool:
    """Tell whether the host shuts down."""
    said = subprocess.run(["/usr/bin/systemctl", "is-system-running"], capture_output=True, text=True, check=False)
    return said.stdout.strip() == "stopping"


def runs(process: Path) -> bool:
    """Tell whether a process runs, also where other users' processes are hidden in /proc.

    Args:
        process: Its folder below /proc.
    """
    try:
        os.kill(int(process.name), 0)
    except ProcessLookupError:
        return False
    return True


def has_heard(process: Path) -> bool:
    """Tell whether a process that was told to end takes nothing new.

    Args:
        process: Its folder below /proc.
    """
    ignored = 0
    with suppress(OSError):  # it has just ended
        ignored = int(re.search(r"^SigIgn:\s*(\w+)$", (process / "status").read_text(), re.MULTILINE)[1], 16)
    return not process.exists() or bool(ignored >> (signal.SIGTERM - 1) & 1)


def workers(process: Path) -> list[str]:
    """List what the executor's workers do.

    Args:
        process: Folder of the scheduler's process below /proc.

    Returns:
        A task of each, or `<idle>`.
    """
    children = ()
    with suppress(OSError):  # it has just ended
        children = Path(process, "task", process.name, "children").read_text().split()
    found = []
    for child in children:
        with suppress(OSError):
            title = Path("/proc", child, "cmdline").read_bytes().decode(errors="replace")
            found += re.findall(r"^airflow.* LocalExecutor.*: ([^\0]+)", title)
    return found


def main(scheduler: Scheduler, notes: Path, process: Path, bound: float) -> None:
    """Stay with a process until it ends.

    Args:
        scheduler: What the database knows of it.
        notes: What root noted of its unit.
        process: Its folder below /proc.
        bound: For how many seconds it may finish its tasks, unless a deploy retired it.
    """
    deadline = last = math.inf
    heard = False
    while runs(process):
        if (notes / "retired").exists() and not shuts_down():
            deadline = math.inf
        elif deadline == math.inf:
            deadline = time.monotonic() + bound
        elif time.monotonic() > deadline:
            os.kill(int(process.name), signal.SIGKILL)
        # Whatever comes, it must stay: once it has gone, systemd signals again.
        with suppress(OSError):
            try:
                status = scheduler.keep_alive()
            except SQLAlchemyError as error:
                status = f"cannot reach the database: {type(error).__name__}"
            say(status, scheduler.job)
            # One that has not heard may have queued tasks that no worker has: they do not hold it.
            if {*workers(process)} - {"<idle>"} or (heard and status != "ends"):
                last = math.inf
            elif last == math.inf:
                last = time.monotonic() + SECONDS_TO_END
            elif time.monotonic() > last:
                os.kill(int(process.name), signal.SIGKILL)
        for _ in range(SECONDS_BETWEEN_HEARTBEATS * 5):
            if not runs(process):
                return
            # In its last moments it no longer ignores the signal.
            heard = heard or has_heard(process)
            time.sleep(0.2)
        with suppress(ProcessLookupError):
            if not heard:
                print("The scheduler goes on as before: its signal is sent again.", flush=True)
                os.kill(int(process.name), signal.SIGTERM)


# After a crash there is no process to stay with.
if __name__ == "__main__" and sys.argv[3:]:
    unit, bound, process = sys.argv[1:4]
    main(Scheduler(job_of(unit)), Path("/run/lvao-airflow", unit), Path("/proc", process), float(bound))
