"""What stays with a scheduler that was told to stop: whether it has heard that."""

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
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


def test_its_heartbeat_is_kept(job: SimpleNamespace) -> None:
    scheduler = drain.Scheduler(START)
    for _ in range(3):
        before = job.latest_heartbeat
        assert scheduler.keep_alive() == "ends"
        assert job.latest_heartbeat > before
        assert job.latest_heartbeat > job.found_at, "it should be of the time after a database that hung"


@contextmanager
def process_with_worker(does: str) -> Iterator[subprocess.Popen]:
    """Run a process that was told to end and has a worker of the executor, and nothing else."""
    worker = f"trap '' TERM; (exec -a 'airflow worker -- LocalExecutor: {does}' sleep 60) & echo; wait"
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


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What root noted of a scheduler that a deploy has told to end, which is looked after more often."""
    monkeypatch.setattr(drain, "SECONDS_BETWEEN_HEARTBEATS", 1)
    monkeypatch.setattr(drain, "say", lambda _status: None)
    for mark in ("base", "retired"):
        (tmp_path / mark).touch()
    return tmp_path


SCHEDULER = """
import signal, time
from airflow.executors import local_executor
from draining_executor import LocalExecutor

heard = 0

def hear(signum, frame):
    global heard
    heard += 1
    if heard == 2:  # Python has dropped what the first raised
        raise SystemExit

local_executor.LocalExecutor.end = lambda _executor: time.sleep(2)  # a task goes on for so long
signal.signal(signal.SIGTERM, hear)
try:
    print("runs", flush=True)
    time.sleep(30)
finally:
    LocalExecutor(parallelism=1).end()
    signal.signal(signal.SIGTERM, hear)  # as Airflow does in the end
    time.sleep(3)
    print("heard", heard, flush=True)
"""


@pytest.mark.usefixtures("job")
def test_one_that_misses_its_signal_is_sent_it_until_it_has_heard(notes: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(drain.__file__).parent / "python")}
    command = [sys.executable, "-c", SCHEDULER]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert "runs\n" in iter(process.stdout.readline, "")
        of_process = Path("/proc", str(process.pid))
        assert not drain.has_heard(of_process)
        stays = threading.Thread(target=drain.main, args=(notes, of_process, math.inf))
        stays.start()
        assert process.stdout.read().splitlines()[-1:] == ["heard 2"], "another would cost it its tasks"
    stays.join()
    assert drain.has_heard(of_process)


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    ("does", "is_killed"),
    [("<idle>", True), ("a_dag.a_task (manual 1)", False)],
)
def test_one_that_hangs_is_killed_when_nothing_is_left(
    does: str, is_killed: bool, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "SECONDS_TO_END", 1)
    with process_with_worker(does) as process:
        stays = threading.Thread(target=drain.main, args=(notes, Path("/proc", str(process.pid)), math.inf))
        stays.start()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        assert process.poll() == (-signal.SIGKILL if is_killed else None)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        stays.join()
