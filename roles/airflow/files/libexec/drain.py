"""Stay with a scheduler that was told to stop, until the tasks that it runs have ended and it ends.

Its heartbeat stops while it drains, and another scheduler would take its tasks for lost and run them again, at its own
start or at its next look for orphans. So the heartbeat is kept here, as long as the process lives. What it waits for
is shown by `systemctl status`. One that has not heard its signal is sent it again, until it ignores it, as its
executor has it do. Once nothing is left of its tasks it is killed if it does not end: Airflow's handler of the signal
logs, and waits for itself for ever if that came amid a line of the log.

One that a deploy retired, with the file `retired` beside what root noted at its start, has all the time that its tasks
take. Else, and while the host shuts down, it is killed past a bound. TimeoutStopSec= could not tell these apart, and
systemd forgets at each reload that it was extended.

Usage, as ExecStop= after the signal: drain.py <unit> <bound in seconds> [<process id of the scheduler>]
"""

import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.jobs.job import Job
from airflow.models.taskinstance import TaskInstance
from airflow.utils.net import get_hostname
from airflow.utils.session import create_session
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

SECONDS_BETWEEN_HEARTBEATS = 5
TASKS_SHOWN = 5
# A worker takes a task within moments, unless the machine is short of them.
SECONDS_QUEUED = 60
SECONDS_TO_END = 60


class Scheduler:
    """This host's scheduler that began first after a time, as the database knows it.

    Args:
        since: When its process began.
    """

    def __init__(self, since: datetime) -> None:
        """Know it by its start."""
        self._since = since

    def keep_alive(self) -> str:
        """Keep its heartbeat, give back what it does not run, and list what it does.

        Returns:
            What it waits for, in one line.
        """
        with create_session() as session:
            of_this_host = Job.job_type == "SchedulerJob", Job.hostname == get_hostname(), Job.start_date >= self._since
            job = session.scalars(select(Job).where(*of_this_host).order_by(Job.start_date).limit(1)).first()
            if not job:
                return "finds itself not in the database"
            # After what a database that hangs would have held up.
            now = datetime.now(UTC)
            job.latest_heartbeat = now
            # If the signal came when it had queued a task that no worker had yet, nobody runs that, and nobody else
            # takes it while this heartbeat is kept. A worker that has it after all is refused by the Execution API.
            left = TaskInstance.state == "queued", TaskInstance.queued_dttm < now - timedelta(seconds=SECONDS_QUEUED)
            session.execute(
                update(TaskInstance)
                .where(TaskInstance.queued_by_job_id == job.id, *left)
                .values(state="scheduled", scheduled_dttm=now, queued_dttm=None, queued_by_job_id=None)
                .execution_options(synchronize_session=False)
            )
            unfinished = TaskInstance.state.in_(("queued", "running", "restarting"))
            found = session.scalars(select(TaskInstance).where(TaskInstance.queued_by_job_id == job.id, unfinished))
            tasks = [f"{task.dag_id}.{task.task_id} ({task.run_id})" for task in found]
        more = f" and {len(tasks) - TASKS_SHOWN} more" if len(tasks) > TASKS_SHOWN else ""
        return f"waits for {len(tasks)} task(s): {', '.join(tasks[:TASKS_SHOWN])}{more}" if tasks else "ends"


def say(status: str) -> None:
    """Show a line in `systemctl status`.

    Args:
        status: The line.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(f"STATUS={status}".encode(), os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))


def shuts_down() -> bool:
    """Tell whether the host shuts down."""
    said = subprocess.run(["/usr/bin/systemctl", "is-system-running"], capture_output=True, text=True, check=False)
    return said.stdout.strip() == "stopping"


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


def main(notes: Path, process: Path, bound: float) -> None:
    """Stay with a process until it ends.

    Args:
        notes: What root noted of its unit, which has the time of its start.
        process: Its folder below /proc.
        bound: For how many seconds it may finish its tasks, unless a deploy retired it.
    """
    # Its row comes after its start.
    scheduler = Scheduler(datetime.fromtimestamp((notes / "base").stat().st_mtime, tz=UTC) - timedelta(seconds=1))
    deadline = last = math.inf
    heard = False
    while process.exists():
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
            say(status)
            if status != "ends" or {*workers(process)} - {"<idle>"}:
                last = math.inf
            elif last == math.inf:
                last = time.monotonic() + SECONDS_TO_END
            elif time.monotonic() > last:
                os.kill(int(process.name), signal.SIGKILL)
        for _ in range(SECONDS_BETWEEN_HEARTBEATS * 5):
            if not process.exists():
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
    main(Path("/run/lvao-airflow", sys.argv[1]), Path("/proc", sys.argv[3]), float(sys.argv[2]))
