"""What stays with a scheduler that was told to stop: whether it has heard that."""

import math
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import drain
import pytest

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The scheduler's row in the database, which runs no task."""
    row = SimpleNamespace(id=1, latest_heartbeat=START)

    class Found:
        def first(self) -> SimpleNamespace:
            row.found_at = datetime.now(UTC)
            return row

        def __iter__(self) -> Iterator[Any]:
            return iter(())

    @contextmanager
    def create_session() -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(scalars=lambda _query: Found(), execute=lambda _statement: None)

    monkeypatch.setattr(drain, "create_session", create_session)
    return row


def test_one_that_has_heard_it_has_no_heartbeat_but_ours(job: SimpleNamespace) -> None:
    scheduler = drain.Scheduler(START)
    for _ in range(3):
        before = job.latest_heartbeat
        assert scheduler.keep_alive() == "ends"
        assert job.latest_heartbeat > before
        assert job.latest_heartbeat > job.found_at, "it should be of the time after a database that hung"
    # One of ours that the database has lost, as in a failover.
    job.latest_heartbeat = before
    scheduler.keep_alive()
    assert scheduler.beats == 0


def test_one_that_goes_on_is_known_by_its_own(job: SimpleNamespace) -> None:
    scheduler = drain.Scheduler(START)
    scheduler.keep_alive()
    for count in (1, 2):
        # Airflow writes the time of the heartbeat before.
        job.latest_heartbeat -= timedelta(seconds=5)
        scheduler.keep_alive()
        assert scheduler.beats == count


@contextmanager
def process_with_worker(does: str) -> Iterator[subprocess.Popen]:
    """Run a process that has a worker of the executor, and nothing else."""
    worker = f"(exec -a 'airflow worker -- LocalExecutor: {does}' sleep 60) & echo; wait"
    with subprocess.Popen(["/bin/bash", "-c", worker], stdout=subprocess.PIPE, process_group=0) as process:
        process.stdout.readline()
        of_process = Path("/proc", str(process.pid))
        while not drain.workers(of_process):
            pass
        yield process
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("does", ["<idle>", "a_dag.a_task (manual 1)"])
def test_workers_say_what_they_do(does: str) -> None:
    assert drain.workers(Path("/proc", str(os.getpid()))) == []
    with process_with_worker(does) as process:
        assert drain.workers(Path("/proc", str(process.pid))) == [does]


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    ("does", "is_killed"),
    [("<idle>", True), ("a_dag.a_task (manual 1)", False)],
)
def test_one_that_hangs_is_killed_when_nothing_is_left(
    does: str, is_killed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "SECONDS_TO_END", 1)
    monkeypatch.setattr(drain, "SECONDS_BETWEEN_HEARTBEATS", 1)
    monkeypatch.setattr(drain, "say", lambda _status: None)
    for mark in ("base", "retired"):
        (tmp_path / mark).touch()
    with process_with_worker(does) as process:
        stays = threading.Thread(target=drain.main, args=(tmp_path, Path("/proc", str(process.pid)), math.inf))
        stays.start()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        assert process.poll() == (-signal.SIGKILL if is_killed else None)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        stays.join()
