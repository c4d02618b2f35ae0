"""What runs a scheduler's tasks: Airflow's LocalExecutor, with a pair of queues for each worker.

Airflow 3.3.2 has one pair for all workers, and does not count what it puts there. A burst of tasks fills the queue: the
scheduler sleeps in its next `put`, and its heartbeat stops. A scheduler that ends can wait for ever in the same way,
and nobody takes back what no worker has. With these merged upstream, LocalExecutor here needs `end` alone:

- apache/airflow#71914 counts what is dispatched: `_process_workloads`, `_read_results`;
- apache/airflow#70545 reads results before it dispatches: `_spawn_worker`, `_check_workers`, `start`;
- apache/airflow#67881 reads results while it ends: the loop in `end`.

tests/airflow/test_executor.py fails as soon as the locked Airflow has one of them.
"""

import ctypes
import multiprocessing
import signal
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.queues import SimpleQueue
from typing import TYPE_CHECKING, ClassVar
from uuid import UUID

import task_process
from airflow.executors import local_executor
from airflow.executors.base_executor import PARALLELISM
from airflow.executors.workloads import ExecuteTask, ExecutorWorkload
from airflow.jobs.job import Job
from airflow.models.callback import Callback
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import CallbackState, TaskInstanceState
from lvao_notify import say
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

if TYPE_CHECKING:
    from airflow.executors.workloads.types import WorkloadKey, WorkloadResultType

SECONDS_BETWEEN_LOOKS = 2
# A worker without work ends at once when it is told to.
SECONDS_TO_END = 10


class Outbox(SimpleQueue):
    """Takes what workloads came to: the state alone, without an exception.

    An exception of a web client's cannot be unpickled, which would end the scheduler's loop. And a state is short: a
    worker that is killed while it writes leaves no half of it, for which the scheduler would wait.
    """

    def put(self, result: "WorkloadResultType") -> None:
        """Put a result without its exception, which nobody asks for."""
        key, state, _ = result
        super().put((key, state, None))


@dataclass(eq=False)
class Worker:
    """A process that runs one workload after the other, each of which it is handed when it has none."""

    process: multiprocessing.Process
    inbox: "SimpleQueue[ExecutorWorkload | None]"
    outbox: "SimpleQueue[WorkloadResultType]"
    workload: ExecutorWorkload | None = None


class LocalExecutor(local_executor.LocalExecutor):
    """Airflow's own, which hands out no more than it has workers, and leaves nothing behind that no worker has."""

    # Of this scheduler: what one of them runs is not to be given back by another.
    started: ClassVar[list["LocalExecutor"]] = []

    def __init__(self, parallelism: int = PARALLELISM, team_name: str | None = None) -> None:
        """Have no worker yet.

        Args:
            parallelism: How many workloads may run at once.
            team_name: Of Airflow's teams, of which there are none.
        """
        super().__init__(parallelism, team_name)
        self.pool: list[Worker] = []

    def start(self) -> None:
        """Start the workers, and say which scheduler this is."""
        if not LocalExecutor.started:
            task_process.prepare()
        LocalExecutor.started.append(self)
        self._check_workers()
        say("schedules", self.job_id)

    def heartbeat(self) -> None:
        """Read what has ended, which makes room, and then hand out what waits."""
        self.sync()
        super().heartbeat()

    def _process_workloads(self, workload_list: list[ExecutorWorkload]) -> None:
        idle = [worker for worker in self.pool if not worker.workload and worker.process.is_alive()]
        # What finds no worker stays queued here, and is asked for again.
        for worker, workload in zip(idle, workload_list, strict=False):
            for queued in (self.queued_tasks, self.queued_callbacks, self.queued_connection_tests):
                queued.pop(workload.key, None)
            self.running.add(workload.key)
            worker.workload = workload
            worker.inbox.put(workload)

    def _read_results(self) -> None:
        for worker in self.pool:
            while worker.workload and not worker.outbox.empty():
                key, state, _ = worker.outbox.get()
                if state == worker.workload.running_state:
                    self.running_state(key)
                else:
                    worker.workload = None
                    self.change_state(key, state, remove_running=not self._has(key))

    def _has(self, key: "WorkloadKey") -> bool:
        """Tell whether a worker has a workload, as of a task that a trigger sent back before its worker had ended."""
        return any(worker.workload and worker.workload.key == key for worker in self.pool)

    def _bury(self) -> None:
        """Forget the workers that have died, and fail what they had."""
        dead = [worker for worker in self.pool if not worker.process.is_alive()]
        self._read_results()  # one may have ended since the last time
        for worker in dead:
            self.pool.remove(worker)
            if worker.workload:
                self.log.error("A worker died with %s, exit status %s", worker.workload.key, worker.process.exitcode)
                self.fail(worker.workload.key)
            worker.process.close()

    def _check_workers(self) -> None:
        self._bury()
        if missing := self.parallelism - len(self.pool):
            self._spawn_workers_with_gc_freeze(missing)

    def _spawn_worker(self) -> None:
        context = multiprocessing.get_context()
        inbox, outbox = SimpleQueue(ctx=context), Outbox(ctx=context)
        process = multiprocessing.Process(
            target=local_executor._run_worker,
            kwargs={
                "logger_name": self.log.name,
                "input": inbox,
                "output": outbox,
                "unread_messages": multiprocessing.Value(ctypes.c_uint),
                "team_conf": self.conf,
            },
        )
        process.start()
        self.pool.append(Worker(process, inbox, outbox))

    def end(self) -> None:
        """Finish what runs, and give back what no worker has.

        The process ignores SIGTERM from now on, which shows that it takes nothing new: drain.py sends the signal until
        then, for Python drops what a signal's handler raises at some moments, as amid a fork.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.log.info("Shutting down LocalExecutor; waiting for running tasks to finish.")
        # After an error there is no heartbeat, so that the watchdog puts another in its place, and drain.py beside it.
        was_told = isinstance(sys.exception(), SystemExit)
        if not was_told:
            say("takes nothing new, for its loop has ended", self.job_id)
        for worker in self.pool:
            worker.inbox.put(None)
        last = time.monotonic() + SECONDS_TO_END
        while self.pool:
            self._finish_what_runs()
            if was_told:
                self._keep_alive()
            if any(worker.workload for worker in self.pool):
                last = time.monotonic() + SECONDS_TO_END
            elif time.monotonic() > last:
                for worker in self.pool:
                    worker.process.kill()
            time.sleep(SECONDS_BETWEEN_LOOKS)
        self._give_back()

    def _finish_what_runs(self) -> None:
        try:
            self._read_results()
            self._bury()
            self._give_back()
        except Exception:
            # Whoever leaves while workers still run tasks has them taken for lost.
            self.log.exception("Cannot see what has ended")

    def _give_back(self) -> None:
        """Let another scheduler queue what this one has queued, but no worker has.

        Whatever this one may still think to have queued, it does not hand out any more.
        """
        held = [
            worker.workload.ti.id
            for executor in LocalExecutor.started
            for worker in executor.pool
            if isinstance(worker.workload, ExecuteTask)
        ]
        queued = (
            TaskInstance.queued_by_job_id == self.job_id,
            TaskInstance.state == TaskInstanceState.QUEUED,
            TaskInstance.id.not_in(held),
        )
        free = {"queued_by_job_id": None, "queued_dttm": None, "external_executor_id": None}
        try:
            with create_session() as session:
                session.execute(
                    update(TaskInstance)
                    .where(*queued)
                    .values(state=TaskInstanceState.SCHEDULED, **free)
                    .execution_options(synchronize_session=False)
                )
                session.execute(
                    update(Callback)
                    .where(Callback.id.in_([UUID(call.callback.id) for call in self.queued_callbacks.values()]))
                    .where(Callback.state == CallbackState.QUEUED)
                    .values(state=CallbackState.PENDING)
                    .execution_options(synchronize_session=False)
                )
        except SQLAlchemyError as error:
            # It is asked again, and settle.py does it in the end.
            self.log.warning("Cannot give back what no worker has: %s", type(error).__name__)

    def _keep_alive(self) -> None:
        """Keep the scheduler's heartbeat, which nobody else does before drain.py has started.

        A scheduler that ends before its loop has gone round has none: `apply` must not take it for one that works.
        """
        has_begun = Job.latest_heartbeat > Job.start_date
        try:
            with create_session() as session:
                session.execute(
                    update(Job)
                    .where(Job.id == self.job_id, has_begun)
                    .values(latest_heartbeat=datetime.now(UTC))
                    .execution_options(synchronize_session=False)
                )
        except SQLAlchemyError as error:
            self.log.warning("Cannot keep the heartbeat: %s", type(error).__name__)


class CanaryExecutor(LocalExecutor):
    """A worker of its own for the DAG that proves a deploy: however much else waits, it finds a free slot."""

    def __init__(self, parallelism: int = 1, team_name: str | None = None) -> None:
        """Have one worker.

        Args:
            parallelism: One.
            team_name: As above.
        """
        super().__init__(parallelism, team_name)
        self.is_wanted = False

    def heartbeat(self) -> None:
        """Look, too, whether a canary waits."""
        super().heartbeat()
        waits = (TaskInstance.executor == self.name.alias, TaskInstance.state == TaskInstanceState.SCHEDULED)
        try:
            with create_session() as session:
                self.is_wanted = session.scalar(select(TaskInstance.id).where(*waits).limit(1)) is not None
        except SQLAlchemyError as error:
            self.is_wanted = False
            self.log.warning("Cannot look for a canary: %s", type(error).__name__)

    @property
    def slots_available(self) -> int:
        """How many more it takes: none where none waits.

        For a free slot that no other task may have, the scheduler would ask for each task that waits, one by one.
        """
        return super().slots_available if self.is_wanted else 0

    @property
    def slots_occupied(self) -> int:
        """How many it has of the slots that `[core] parallelism` allows: its own comes on top."""
        occupied = super().slots_occupied
        return occupied - 1 if occupied or self.is_wanted else 0
