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

import drain
import pytest
from sqlalchemy.sql import ClauseElement


class Database:
    """What a scheduler's row and its tasks are asked for."""

    def __init__(self) -> None:
        """Know no task."""
        self.tasks: list[SimpleNamespace] = []
        self.heartbeats: list[datetime] = []

    def scalars(self, _query: object) -> list[SimpleNamespace]:
        """List the tasks."""
        self.found_at = datetime.now(UTC)
        return self.tasks

    def execute(self, statement: ClauseElement) -> None:
        """Take a heartbeat."""
        self.heartbeats.append(statement.compile().params["latest_heartbeat"])


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database in which the scheduler runs no task."""
    made = Database()

    @contextmanager
    def create_session() -> Iterator[Database]:
        yield made

    monkeypatch.setattr(drain, "create_session", create_session)
    return made


def test_its_heartbeat_is_kept(database: Database) -> None:
    scheduler = drain.Scheduler(17)
    for _ in range(3):
        assert scheduler.keep_alive() == "ends"
        assert database.heartbeats[-1] > database.found_at, "it should be of the time after a database that hung"
    database.tasks = [SimpleNamespace(dag_id="a", task_id=f"t{number}", run_id="manual") for number in range(7)]
    assert (
        scheduler.keep_alive()
        == "waits for 7 task(s): " + ", ".join(f"a.t{number} (manual)" for number in range(5)) + " and 2 more"
    )


def test_one_that_nobody_knows_is_asked_of_no_database(database: Database) -> None:
    assert drain.Scheduler(None).keep_alive() == "waits for its workers"
    assert not database.heartbeats


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
    monkeypatch.setattr(drain, "say", lambda _status, _job: None)
    for mark in ("base", "retired"):
        (tmp_path / mark).touch()
    return tmp_path


SCHEDULER = """
import signal, time
from draining_executor import LocalExecutor

heard = 0

def hear(signum, frame):
    global heard
    heard += 1
    if heard == 2:  # Python has dropped what the first raised
        raise SystemExit

LocalExecutor._keep_alive = lambda _executor: None
LocalExecutor._give_back = lambda _executor: time.sleep(2)  # a task goes on for so long
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


@pytest.mark.usefixtures("database")
def test_one_that_misses_its_signal_is_sent_it_until_it_has_heard(notes: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(drain.__file__).parent / "python")}
    command = [sys.executable, "-c", SCHEDULER]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert "runs\n" in iter(process.stdout.readline, "")
        of_process = Path("/proc", str(process.pid))
        assert not drain.has_heard(of_process)
        stays = threading.Thread(target=drain.main, args=(drain.Scheduler(17), notes, of_process, math.inf))
        stays.start()
        assert process.stdout.read().splitlines()[-1:] == ["heard 2"], "another would cost it its tasks"
    stays.join()
    assert drain.has_heard(of_process)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, heard: bool) -> None:
    """Give a process a second to end, and decide whether it has heard that it is to end."""
    monkeypatch.setattr(drain, "SECONDS_TO_END", 1)
    monkeypatch.setattr(drain, "has_heard", lambda _process: heard)


@pytest.mark.parametrize(
    ("does", "heard", "is_killed"),
    [("<idle>", True, True), ("a_dag.a_task (manual 1)", True, False), ("<idle>", False, True)],
    ids=["nothing", "a task", "what no worker has"],
)
@pytest.mark.usefixtures("hasty")
def test_one_that_hangs_is_killed_when_nothing_is_left(
    does: str, heard: bool, is_killed: bool, notes: Path, database: Database
) -> None:
    # A scheduler that hangs does not give back what it has queued.
    database.tasks = [] if heard else [SimpleNamespace(dag_id="a", task_id="t", run_id="manual")]
    with process_with_worker(does) as process:
        stays = threading.Thread(
            target=drain.main, args=(drain.Scheduler(17), notes, Path("/proc", str(process.pid)), math.inf)
        )
        stays.start()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        assert process.poll() == (-signal.SIGKILL if is_killed else None)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        stays.join()
