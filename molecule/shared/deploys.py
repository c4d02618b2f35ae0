"""What scenarios with deploys share: the deploys, the tasks that run meanwhile, and a burst of them."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    PATIENCE,
    PROJECT,
    Airflow,
    Ended,
    address,
    repeated,
    run_playbook,
    run_with_airflow,
    unit_property,
    wait_for,
)
from testinfra.host import Host

HOST = os.environ["LVAO_HOSTS"]
COMPONENTS = "webserver execution-api log-server dag-processor triggerer scheduler"
UNITS = [f"lvao-airflow-{name}" for name in COMPONENTS.split()]
SCHEDULER = "lvao-airflow-scheduler"
DRAINS = "systemctl list-units --state=deactivating --plain --no-legend 'lvao-airflow-scheduler-*'"
# What a deploy finds its DAGs in, and further variables of all that follow.
VALUES: dict[str, object] = {
    # A scheduler looks for another's tasks often.
    "airflow_env_host": {
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": 5,
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 10,
        "PYTHONPATH": "/srv/of the site",
    },
    # It bounds a stop, and not what a deploy leaves to finish its tasks.
    "airflow_stop_timeout": "20",
    "airflow_database_dumps_kept": 2,
    # More than there are slots.
    "airflow_pools": {"burst": {"slots": 400}},
}


@pytest.fixture(scope="module", autouse=True)
def dags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the project's DAGs to a folder of our own, with the sleeper, for deploys to take them from."""
    folder = tmp_path_factory.mktemp("source") / "dags"
    shutil.copytree(PROJECT / "dags", folder, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    for dag in ("sleeper", "burst"):
        shutil.copy(Path(__file__).with_name("dags") / f"{dag}.py", folder)
    VALUES["airflow_dags_source"] = str(folder)
    write_edition(folder, "one")
    return folder


def write_edition(folder: Path, edition: str) -> None:
    """Change what the sleeper says."""
    (folder / "edition.py").write_text(f'EDITION = "{edition}"\n')


def deploy(playbook: str = "deploy", **values: object) -> Ended:
    return run_playbook(playbook, HOST, "--extra-vars", json.dumps(VALUES | values))


def live(host: Host) -> str:
    return host.check_output("basename $(realpath /opt/airflow/current)")


def live_edition(host: Host) -> str:
    return host.check_output("sed -n 's/EDITION = \"\\(.*\\)\"/\\1/p' /opt/airflow/current/dags/edition.py")


def processes(host: Host) -> list[str]:
    return [unit_property(host, unit, "MainPID") for unit in UNITS]


def sleep_for(airflow: Airflow, seconds: int, until: str = "/nonexistent") -> str:
    """Start a task that sleeps, unless a file wakes it, and wait until it does."""
    run_id = airflow.trigger("sleeper", {"seconds": seconds, "until": until})
    path = f"/dags/sleeper/dagRuns/{run_id}/taskInstances/sleep"
    wait_for(lambda: airflow.call("GET", path)[1].get("state") == "running", 60, "the task to run")
    return run_id


@pytest.fixture
def alarm(host: Host, request: pytest.FixtureRequest) -> Iterator[str]:
    """Name a file that wakes a sleeper, and make it in the end at the latest, for the next test not to wait for it."""
    path = f"/var/lib/airflow/alarm-{request.function.__name__}"
    host.check_output(f"rm --force {path}")
    yield path
    host.check_output(f"touch {path}")


def assert_first_try(airflow: Airflow, run_id: str, edition: str) -> None:
    """Check that a task of the sleeper ended well at once, with the code that it began with."""
    path = f"/dags/sleeper/dagRuns/{run_id}/taskInstances/sleep"
    wait_for(lambda: airflow.call("GET", path)[1]["state"] not in {"running", "queued"}, 700, f"{run_id} to end")
    task = airflow.call("GET", path)[1]
    assert (task["state"], task["try_number"]) == ("success", 1)
    # Between its end and that of its log's way to the bucket, there is none.
    wait_for(lambda: "edition: " in airflow.log("sleeper", run_id, "sleep"), 30, "its log")
    assert f"edition: {edition}" in airflow.log("sleeper", run_id, "sleep")


def assert_lost(host: Host, airflow: Airflow, run_id: str) -> None:
    """Check that a task of the sleeper was killed, with its scheduler, and that others run."""
    assert not host.check_output(DRAINS)
    other = airflow.trigger("sleeper")
    assert airflow.finish("sleeper", other) == "success"
    airflow.call("PATCH", f"/dags/sleeper/dagRuns/{run_id}", {"state": "failed"})
    path = f"/dags/sleeper/dagRuns/{run_id}/taskInstances/sleep"
    assert airflow.call("GET", path)[1]["state"] != "success"


def requests_of_users(host: Host, airflow: Airflow) -> list[tuple[str, str, None, str]]:
    """Name the requests that must not fail while a host works for its users: one in forty asks the database, too."""
    token = airflow.login(airflow.password)[1]
    # Those held come at once when the webserver is back: no more than a slow one has connections for.
    paths = ["version"] * 39 + ["dags/sleeper"]
    return [("GET", f"http://{address(host)}:8080/api/v2/{path}", None, token) for path in paths]


@contextmanager
def steady_runs(airflow: Airflow, every_seconds: float = 30) -> Iterator[list[str]]:
    """Trigger runs of the sleeper while the block runs, and list them in order."""
    runs: list[str] = []
    with repeated(lambda: runs.append(airflow.trigger("sleeper")), every_seconds):
        yield runs


HEARTBEATS = """
SELECT coalesce(json_agg(json_build_object('job', id, 'age', extract(epoch FROM now() - latest_heartbeat), 'running', (
    SELECT count(*) FROM task_instance WHERE queued_by_job_id = job.id AND state IN ('queued', 'running')))), '[]')
FROM job WHERE job_type = 'SchedulerJob' AND state = 'running'
"""
TRIES = """
SELECT json_build_object('state', state, 'tries', try_number, 'scheduler', queued_by_job_id) FROM task_instance
WHERE dag_id = 'burst' AND task_id = 'sleep' AND run_id = :'run'
"""


def query(host: Host, statement: str, **values: str) -> list[Any]:
    """Ask the database, and read a value of each row, which is JSON."""
    values = " ".join(f"--set={name}={value}" for name, value in values.items())
    psql = f"runuser -u postgres -- psql --quiet --tuples-only --no-align {values} {BUCKET}"
    return [json.loads(row) for row in host.check_output(f'echo "{statement}" | {psql}').splitlines()]


@contextmanager
def burst(airflow: Airflow, tasks: int, seconds: int, lost: int = 0, schedulers: int = 1) -> Iterator[None]:
    """Have many tasks wait for few slots while the block runs, and see then that each has ended well.

    Args:
        airflow: Its API.
        tasks: How many.
        seconds: How long each sleeps.
        lost: How many at most had to run twice.
        schedulers: How many at least took part, one after the other.
    """
    host = airflow.host
    slots = int(run_with_airflow(host, "import os", "os.environ['AIRFLOW__CORE__PARALLELISM']"))
    seen: list[dict[str, float]] = []
    with repeated(lambda: seen.extend(*query(host, HEARTBEATS)), 5):
        run_id = airflow.trigger("burst", {"tasks": tasks, "seconds": seconds})
        wait_for(lambda: "running" in {task["state"] for task in query(host, TRIES, run=run_id)}, 60, "the burst")
        yield
        ended = {"success", "failed"}
        wait_for(lambda: ended & {airflow.state("burst", run_id)}, 600, "the burst to end")
    print("the oldest heartbeat:", max(scheduler["age"] for scheduler in seen))
    assert max(scheduler["running"] for scheduler in seen) <= slots + 1, "the canary has a slot of its own"
    found = query(host, TRIES, run=run_id)
    assert len({task["scheduler"] for task in found}) >= schedulers
    tries = Counter((task["state"], task["tries"]) for task in found)
    again = tries.pop(("success", 2), 0)
    assert bool(lost) <= again <= lost, "what a killed scheduler ran runs again, and nothing else"
    assert tries == {("success", 1): tasks - again}
    # One that was killed has no heartbeat, and nobody keeps it.
    assert lost or max(scheduler["age"] for scheduler in seen) < 30 * PATIENCE


BUCKET = "lvao-molecule-airflow"
