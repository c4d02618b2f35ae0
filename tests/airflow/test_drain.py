"""What stays with a scheduler that was told to stop: whether it has heard that."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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


def test_a_worker_that_waits_for_tasks_is_found() -> None:
    own = Path("/proc", str(os.getpid()))
    assert not drain.has_idle_worker(own)
    title = "exec -a 'airflow worker -- LocalExecutor: <idle>' sleep 60"
    with subprocess.Popen(["/bin/bash", "-c", f"echo; {title}"], stdout=subprocess.PIPE) as worker:
        worker.stdout.readline()
        for _ in range(100):
            if found := drain.has_idle_worker(own):
                break
        worker.kill()
    assert found
    assert not drain.has_idle_worker(own)
