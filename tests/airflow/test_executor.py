"""How tasks are handed to workers, and what Airflow's own executor does not do yet."""

import inspect
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import draining_executor
import httpx
import pytest
from airflow.executors import local_executor
from airflow.executors.base_executor import BaseExecutor
from airflow.executors.executor_utils import ExecutorName
from draining_executor import CanaryExecutor, LocalExecutor
from sqlalchemy.sql import ClauseElement

WORKERS = 2


class Workload(NamedTuple):
    """What a worker is given: as much of it as the executor looks at."""

    key: str
    does: Callable[[], object] = bool
    running_state: str | None = None
    success_state: str = "success"
    failure_state: str = "failed"

    @property
    def display_name(self) -> str:
        """What the worker's title says."""
        return self.key


def fall_over() -> None:
    """Die like a worker that the kernel kills."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    """Fail with more than a pipe holds."""
    raise RuntimeError("x" * 2**20)


def fail_oddly() -> None:
    """Fail with what cannot be unpickled."""
    httpx.Response(502, request=httpx.Request("GET", "http://localhost")).raise_for_status()


def sleep_a_second() -> None:
    time.sleep(1)


def sleep_for_long() -> None:
    time.sleep(60)


@pytest.fixture
def given_back(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """What workers had, each time that the rest was given back."""
    held: list[set[str]] = []

    def give_back(_executor: LocalExecutor) -> None:
        workers = [worker for executor in LocalExecutor.started for worker in executor.pool]
        held.append({worker.workload.key for worker in workers if worker.workload})

    monkeypatch.setattr(LocalExecutor, "_give_back", give_back)
    return held


@pytest.fixture
def kept_alive(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """An entry each time that the heartbeat was kept."""
    kept: list[bool] = []
    monkeypatch.setattr(LocalExecutor, "_keep_alive", lambda _executor: kept.append(True))
    return kept


@pytest.fixture
def executor(
    monkeypatch: pytest.MonkeyPatch, given_back: list[set[str]], kept_alive: list[bool]
) -> Iterator[LocalExecutor]:
    """An executor that is at work."""
    monkeypatch.setattr(draining_executor, "SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(BaseExecutor, "run_workload", staticmethod(lambda workload, **_: workload.does()))
    monkeypatch.setattr(BaseExecutor, "change_state", change_state)
    monkeypatch.setattr(BaseExecutor, "fail", lambda self, key: self.change_state(key, "failed"))
    monkeypatch.setattr(LocalExecutor, "started", [])
    monkeypatch.setattr(draining_executor.task_process, "prepare", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    made = LocalExecutor(parallelism=WORKERS)
    made.start()
    yield made
    for worker in made.pool:
        worker.process.kill()
    signal.signal(signal.SIGTERM, before)


class Said(list[tuple[str, dict]]):
    """Statements and their values, and what is found."""

    found: UUID | None = None


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    """What the database is told."""
    statements = Said()

    class Session:
        def __enter__(self) -> "Session":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def execute(self, statement: ClauseElement) -> None:
            statements.append((str(statement.compile()), statement.compile().params))

        def scalar(self, statement: ClauseElement) -> UUID | None:
            self.execute(statement)
            return statements.found

    monkeypatch.setattr(draining_executor, "create_session", Session)
    return statements


def change_state(self: BaseExecutor, key: str, state: str, info: object = None, remove_running: bool = True) -> None:
    """Do what Airflow's own does, whatever the key is."""
    if remove_running:
        self.running.discard(key)
    self.event_buffer[key] = state, info


def give(executor: LocalExecutor, *given: Workload) -> None:
    """Queue workloads, as the scheduler does."""
    for workload in given:
        executor.queued_tasks[workload.key] = workload


def beat(executor: LocalExecutor) -> None:
    """Have the executor go round once, and hand out what is queued in order."""
    executor.sync()
    executor._process_workloads(list(executor.queued_tasks.values())[: executor.parallelism - len(executor.running)])
    executor.sync()


def wait_for(executor: LocalExecutor, *keys: str) -> dict[str, Any]:
    """Have the executor go round until workloads have ended."""
    end = time.monotonic() + 20
    while {*keys} - {*executor.event_buffer} and time.monotonic() < end:
        beat(executor)
        time.sleep(0.02)
    return {key: executor.event_buffer[key][0] for key in keys}


def test_no_more_is_handed_out_than_there_are_workers(executor: LocalExecutor) -> None:
    burst = [Workload(str(number), sleep_a_second) for number in range(5)]
    give(executor, *burst)
    began = time.monotonic()
    for _ in range(3):
        beat(executor)
    assert time.monotonic() - began < 1, "it should not wait for a worker"
    assert executor.running == {"0", "1"}
    assert list(executor.queued_tasks) == ["2", "3", "4"]
    assert executor.slots_available <= 0
    assert set(wait_for(executor, *"01234").values()) == {"success"}
    assert not executor.running
    assert executor.slots_available == WORKERS


def test_a_result_larger_than_a_pipe_blocks_nobody(executor: LocalExecutor) -> None:
    give(executor, Workload("large", fail), Workload("other"))
    assert wait_for(executor, "large", "other") == {"large": "failed", "other": "success"}


def test_an_exception_that_cannot_be_unpickled_ends_nothing(executor: LocalExecutor) -> None:
    give(executor, Workload("odd", fail_oddly), Workload("other"))
    assert wait_for(executor, "odd", "other") == {"odd": "failed", "other": "success"}


def test_what_a_worker_dies_of_fails_and_its_slot_is_free_again(executor: LocalExecutor) -> None:
    give(executor, *[Workload(str(number), fall_over) for number in range(WORKERS)])
    assert set(wait_for(executor, "0", "1").values()) == {"failed"}
    give(executor, Workload("next"), Workload("last"))
    assert set(wait_for(executor, "next", "last").values()) == {"success"}
    assert len(executor.pool) == WORKERS


def test_the_end_waits_for_what_runs_and_gives_back_the_rest(
    executor: LocalExecutor, given_back: list[set[str]]
) -> None:
    give(executor, Workload("runs", sleep_a_second), Workload("fails", fail), Workload("waits"))
    beat(executor)
    executor.end()
    assert {key: state for key, (state, _) in executor.event_buffer.items()} == {"runs": "success", "fails": "failed"}
    assert "runs" in given_back[0]
    assert given_back[-1] == set()
    assert all("waits" not in held for held in given_back)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def end_after(executor: LocalExecutor, error: BaseException) -> None:
    """End an executor as Airflow does: when its loop is left, however that comes."""
    try:
        raise error
    finally:
        executor.end()


def test_one_that_was_told_to_end_keeps_its_heartbeat(executor: LocalExecutor, kept_alive: list[bool]) -> None:
    with pytest.raises(SystemExit):
        end_after(executor, SystemExit(0))
    assert kept_alive


def test_one_whose_loop_has_ended_has_no_heartbeat(executor: LocalExecutor, kept_alive: list[bool]) -> None:
    """Else nobody would put another in its place."""
    with pytest.raises(OSError, match="away"):
        end_after(executor, OSError("the database is away"))
    assert not kept_alive


def test_a_turn_that_fails_leaves_no_running_task_behind(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter(range(100))

    def fail_at_first(_executor: LocalExecutor) -> None:
        if not next(turns):
            raise RuntimeError("once")

    monkeypatch.setattr(LocalExecutor, "_give_back", fail_at_first)
    give(executor, Workload("runs", sleep_a_second))
    beat(executor)
    executor.end()
    assert executor.event_buffer["runs"][0] == "success"


def test_the_end_kills_a_worker_that_has_nothing_to_do_and_stays(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining_executor, "SECONDS_TO_END", 0.2)
    os.kill(executor.pool[0].process.pid, signal.SIGSTOP)
    began = time.monotonic()
    executor.end()
    assert time.monotonic() - began < 10


def test_a_task_that_comes_back_before_its_worker_has_ended_is_still_known(executor: LocalExecutor) -> None:
    """A trigger may send it back while its first worker still stores its log."""
    give(executor, Workload("deferred", sleep_a_second))
    beat(executor)
    give(executor, Workload("deferred", sleep_for_long))
    beat(executor)
    assert wait_for(executor, "deferred") == {"deferred": "success"}
    assert executor.running == {"deferred"}


def test_the_canary_has_a_slot_beside_all_others(executor: LocalExecutor) -> None:
    canary = CanaryExecutor()
    give(executor, *[Workload(str(number), sleep_for_long) for number in range(WORKERS)])
    beat(executor)

    def free() -> tuple[int, int]:
        """How many slots the scheduler finds: of the executors, and of all that may run."""
        both = executor, canary
        return sum(each.slots_available for each in both), WORKERS - sum(each.slots_occupied for each in both)

    assert free() == (0, 0), "for a free slot, the scheduler would ask for each of the tasks that wait"
    canary.is_wanted = True
    assert free() == (1, 1)
    canary.running.add("canary")
    assert free() == (0, 0)
    canary.is_wanted = False
    assert canary.slots_occupied == 0, "its own comes on top"


@pytest.mark.parametrize("found", [uuid4(), None], ids=["one waits", "none waits"])
def test_the_canary_is_wanted_while_one_waits(said: Said, monkeypatch: pytest.MonkeyPatch, found: UUID | None) -> None:
    monkeypatch.setattr(LocalExecutor, "heartbeat", lambda _executor: None)
    canary = CanaryExecutor()
    canary.name = ExecutorName("draining_executor.CanaryExecutor", alias="canary")
    said.found = found
    canary.heartbeat()
    assert canary.is_wanted == bool(found)
    [(statement, values)] = said
    assert "WHERE task_instance.executor = :executor_1 AND task_instance.state = :state_1" in statement
    assert (values["executor_1"], values["state_1"]) == ("canary", "scheduled")


class Queue:
    """What upstream puts workloads into."""

    def put(self, _workload: Workload) -> None:
        """Take it."""

    def empty(self) -> bool:
        """Tell that nothing is there."""
        return True


def counts_what_it_dispatches() -> bool:
    """Have Airflow's own executor dispatch one workload, and tell whether it knows that it runs."""
    upstream = local_executor.LocalExecutor(parallelism=1)
    upstream.activity_queue = upstream.result_queue = Queue()
    upstream.workers = {}
    upstream._unread_messages = local_executor.multiprocessing.Value("I")
    upstream.queued_tasks = {"one": Workload("one")}
    upstream._process_workloads([Workload("one")])
    return bool(upstream.running)


@pytest.mark.parametrize(
    ("arrived", "mends"),
    [
        (counts_what_it_dispatches, "apache/airflow#71914: drop what counts in draining_executor.py"),
        (
            lambda: "_read_results" in inspect.getsource(local_executor.LocalExecutor._process_workloads),
            "apache/airflow#70545: drop the pair of queues for each worker in draining_executor.py",
        ),
        (
            lambda: "timeout" in inspect.getsource(local_executor.LocalExecutor.end),
            "apache/airflow#67881: drop the loop of end() in draining_executor.py",
        ),
    ],
    ids=["71914", "70545", "67881"],
)
def test_airflow_does_not_do_it_itself_yet(arrived: Callable[[], bool], mends: str) -> None:
    assert not arrived(), f"The locked Airflow has {mends}"


def test_one_that_ends_before_its_first_round_has_no_heartbeat(said: Said) -> None:
    ended = LocalExecutor(parallelism=1)
    ended.job_id = 17
    ended._keep_alive()
    [(statement, values)] = said
    assert "WHERE job.id = :id_1 AND job.latest_heartbeat > job.start_date" in statement
    assert values["id_1"] == 17


def test_what_is_given_back_is_what_no_worker_has(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    held, called = uuid4(), uuid4()
    monkeypatch.setattr(draining_executor, "ExecuteTask", SimpleNamespace)
    busy = SimpleNamespace(pool=[SimpleNamespace(workload=SimpleNamespace(ti=SimpleNamespace(id=held)))])
    monkeypatch.setattr(LocalExecutor, "started", [busy])
    ended = LocalExecutor(parallelism=1)
    ended.job_id = 17
    ended.queued_callbacks = {"call": SimpleNamespace(callback=SimpleNamespace(id=str(called)))}
    ended._give_back()
    (tasks, of_tasks), (callbacks, of_callbacks) = said
    assert "task_instance.id NOT IN" in tasks
    assert (of_tasks["queued_by_job_id_1"], of_tasks["state_1"], of_tasks["id_1"]) == (17, "queued", [held])
    assert of_tasks["state"] == "scheduled"
    assert callbacks.startswith("UPDATE callback ")
    assert (of_callbacks["id_1"], of_callbacks["state"]) == ([called], "pending")
