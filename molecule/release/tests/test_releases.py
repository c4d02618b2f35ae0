"""Deploys, good ones and bad ones, on a host that works meanwhile."""

import base64
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from conftest import (
    HEALTHY,
    INVENTORY,
    PATIENCE,
    PROJECT,
    Airflow,
    Ended,
    address,
    repeated,
    run_playbook,
    run_with_airflow,
    said,
    steady_requests,
    unit_property,
    wait_for,
)
from testinfra.host import Host

HOST = "lvao-molecule-release"
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
        shutil.copy(Path(__file__).with_name(f"{dag}.py"), folder)
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
    assert f"edition: {edition}" in airflow.log("sleeper", run_id, "sleep")


class Deploy:
    """A deploy that runs while a test goes on."""

    def __init__(self, **values: object) -> None:
        """Start it.

        Args:
            values: Variables.
        """
        variables = json.dumps(VALUES | values)
        command = ["ansible-playbook", "-i", INVENTORY, "playbooks/deploy.yml", "--extra-vars", variables]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, cwd=PROJECT, start_new_session=True, **pipes)
        self.said = ""

    def __enter__(self) -> Self:
        """Go on beside it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let it not disturb what follows a test that fails."""
        self.kill()

    def wait_until_it_says(self, text: str) -> None:
        """Read what it says, up to a text, whose lines Ansible may have folded."""
        begin = len(self.said)
        for line in self.process.stdout:
            self.said += line
            if text in " ".join(self.said[begin:].split()):
                return
        pytest.fail(f"it never said {text}: {self.said}")

    def kill(self) -> None:
        """Kill its controller, as a lost connection or machine does, unless it has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def finish(self) -> int:
        """Read to its end, and return its exit status."""
        self.said += self.process.stdout.read()
        return self.process.wait()


def requests_of_users(host: Host, airflow: Airflow) -> list[tuple[str, str, None, str]]:
    """Name the requests that must not fail while a host works for its users: one in forty asks the database, too."""
    token = airflow.login(airflow.password)[1]
    # Those held come at once when the webserver is back: no more than a slow one has connections for.
    paths = ["version"] * 39 + ["dags/sleeper"]
    return [("GET", f"http://{address(host)}:8080/api/v2/{path}", None, token) for path in paths]


@contextmanager
def steady_runs(airflow: Airflow, every_seconds: float = 15) -> Iterator[list[str]]:
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
SELECT json_build_object('state', state, 'tries', try_number, 'number', count(*)) FROM task_instance
WHERE dag_id = 'burst' AND task_id = 'sleep' AND run_id = :'run' GROUP BY state, try_number
"""


def query(host: Host, statement: str, **values: str) -> list[Any]:
    """Ask the database, and read a value of each row, which is JSON."""
    values = " ".join(f"--set={name}={value}" for name, value in values.items())
    psql = f"runuser -u postgres -- psql --quiet --tuples-only --no-align {values} {BUCKET}"
    return [json.loads(row) for row in host.check_output(f'echo "{statement}" | {psql}').splitlines()]


@contextmanager
def burst(host: Host, airflow: Airflow, tasks: int, seconds: int, lost: int = 0) -> Iterator[None]:
    """Have many tasks wait for few slots while the block runs, and see then that each has ended well.

    Args:
        host: Where they run.
        airflow: Its API.
        tasks: How many.
        seconds: How long each sleeps.
        lost: How many at most had to run twice.
    """
    slots = int(run_with_airflow(host, "import os", "os.environ['AIRFLOW__CORE__PARALLELISM']"))
    seen: list[dict[str, float]] = []
    with repeated(lambda: seen.extend(*query(host, HEARTBEATS)), 5):
        run_id = airflow.trigger("burst", {"tasks": tasks, "seconds": seconds})
        wait_for(lambda: query(host, TRIES, run=run_id) or None, 60, "the burst")
        yield
        ended = {"success", "failed"}
        wait_for(lambda: ended & {airflow.state("burst", run_id)}, 600, "the burst to end")
    print("the oldest heartbeat:", max(scheduler["age"] for scheduler in seen))
    assert max(scheduler["running"] for scheduler in seen) <= slots + 1, "the canary has a slot of its own"
    found = {(row["state"], row["tries"]): row["number"] for row in query(host, TRIES, run=run_id)}
    again = found.pop(("success", 2), 0)
    assert again <= lost, "only what a killed scheduler ran runs again"
    assert found == {("success", 1): tasks - again}
    # One that was killed has no heartbeat, and nobody keeps it.
    assert lost or max(scheduler["age"] for scheduler in seen) < 30 * PATIENCE


@pytest.fixture(scope="module")
def long_run(host: Host, airflow: Airflow, dags: Path) -> Iterator[str]:
    """Deploy the DAGs, start a long task, and see in the end that nothing of what came between has harmed it."""
    ended = deploy()
    assert ended.returncode == 0, ended.stdout
    run_id = sleep_for(airflow, 600)
    yield run_id
    assert_first_try(airflow, run_id, "one")


def test_a_deploy_waits_for_no_task_and_no_task_or_request_for_it(
    host: Host, airflow: Airflow, dags: Path, long_run: str, tmp_path: Path
) -> None:
    short_run = sleep_for(airflow, 60)
    write_edition(dags, "two")
    packages = tmp_path / "airflow.txt"
    packages.write_text((PROJECT / "requirements/airflow.txt").read_text() + "# changed\n")
    VALUES["airflow_requirements"] = str(shutil.copy(packages, dags.parent))
    before = processes(host)
    work = burst(host, airflow, 70, 10)
    with work, steady_requests(requests_of_users(host, airflow)) as answers, steady_runs(airflow) as runs:
        began = time.monotonic()
        ended = deploy()
        print(f"the deploy took {time.monotonic() - began:.0f} s")
        early = {airflow.state("sleeper", run_id) for run_id in runs[: len(runs) // 2]}
    assert ended.returncode == 0, ended.stdout
    assert early <= {"running", "success"}, "runs that are triggered meanwhile should not wait for its end"
    assert {airflow.finish("sleeper", run_id) for run_id in runs} == {"success"}
    assert {answer.status for answer in answers} == {200}
    assert not {*before} & {*processes(host)}
    drains = host.check_output(DRAINS)
    assert drains, "the old scheduler should still run the tasks"
    old = drains.split()[0]
    assert "sleeper.sleep" in unit_property(host, old, "StatusText")
    # Its heartbeat is kept, so neither a start of the new one nor its looks for orphans take its tasks.
    host.check_output(f"systemctl kill --signal=KILL {SCHEDULER}")
    wait_for(lambda: unit_property(host, SCHEDULER, "MainPID") not in {"0", before[-1]}, 30, "the new scheduler")
    # A database that is away for longer than Airflow's own patience, for both.
    host.check_output("pkill --signal STOP --uid postgres && sleep 45; pkill --signal CONT --uid postgres")
    run_id = airflow.trigger("sleeper")
    assert airflow.finish("sleeper", run_id) == "success"
    assert_first_try(airflow, run_id, "two")
    assert_first_try(airflow, short_run, "one")


def test_nothing_to_do_changes_nothing(host: Host, long_run: str) -> None:
    before = processes(host), live(host)
    ended = deploy()
    assert re.findall(r"changed=(\d+)", ended.stdout) == ["0"], ended.stdout
    assert (processes(host), live(host)) == before


LOCK = "/run/lock/lvao-airflow-deploy.json"


def write_lock(host: Host, *, until: str) -> None:
    """Lock the environment for somebody on another machine."""
    process = {"id": 1, "started": "then", "kernel": "another"}
    times = {"since": "2026-01-01T00:00:00Z", "until": until}
    record = {"who": "somebody@elsewhere", "what": "playbooks/deploy.yml", "process": process, **times}
    host.check_output(f"echo {shlex.quote(json.dumps(record))} > {LOCK}")


def test_a_further_deploy_waits_for_the_old_scheduler_and_ends_without_its_lock(
    host: Host, airflow: Airflow, long_run: str
) -> None:
    before = processes(host), live(host)
    try:
        with Deploy(airflow_env_host={"LVAO_TEST": "further"}) as further:
            further.wait_until_it_says(f"waits for 1 task(s): sleeper.sleep ({long_run})")
            write_lock(host, until="2099-01-01T00:00:00Z")
            assert further.finish() != 0
        assert "Locked by somebody@elsewhere" in " ".join(further.said.split())
        assert host.file(LOCK).contains("somebody@elsewhere")
    finally:
        host.check_output(f"rm --force {LOCK}")
    assert (processes(host), live(host)) == before
    assert airflow.health() == HEALTHY


def test_a_bad_dag_is_refused_before_anything_changes(host: Host, dags: Path, long_run: str) -> None:
    before = processes(host), live(host)
    (dags / "broken.py").write_text("from airflow.sdk import dag\n\ndef broken(:\n")
    ended = deploy("dags")
    (dags / "broken.py").unlink()
    assert ended.returncode != 0
    assert "dags/broken.py:3: SyntaxError" in said(ended)
    listed = said(deploy("releases"))
    refused, *_ = re.findall(r"(\w+) made \S+ by \S+ commit \S+ Airflow [0-9.]+ never live", listed)
    ended = deploy("rollback", airflow_rollback_release=refused, airflow_dags_live="/srv/dags")
    assert "dags/broken.py:3: SyntaxError" in said(ended), "it has DAGs of its own, wherever those of now are"
    assert (processes(host), live(host)) == before


def test_impossible_packages_are_refused_before_anything_changes(host: Host, long_run: str, tmp_path: Path) -> None:
    before = processes(host), live(host)
    lock = tmp_path / "airflow.txt"
    lock.write_text(f"lvao-no-such-package==1.0 --hash=sha256:{'0' * 64}\n")
    ended = deploy(airflow_requirements=str(lock))
    assert ended.returncode != 0
    assert "lvao-no-such-package" in said(ended)
    assert (processes(host), live(host)) == before


def test_dags_alone_restart_nothing_and_leave_running_tasks_their_code(
    host: Host, airflow: Airflow, dags: Path, long_run: str, alarm: str
) -> None:
    before, release = processes(host), live(host)
    caught = sleep_for(airflow, 1200, alarm)
    # As a newer release may have brought it.
    other = "/etc/systemd/system/lvao-airflow-other.service"
    host.check_output(f"printf '[Service]\nExecStart=sleep 9\n' > {other}")
    source = (dags / "sleeper.py").read_text()
    (dags / "newcomer.py").write_text(
        source.replace("def sleeper", "def newcomer").replace("\nsleeper()", "\nnewcomer()")
    )
    # As many deploys as make the task's release, and that of the old scheduler, one to remove.
    for edition in ("three", "four"):
        write_edition(dags, edition)
        ended = deploy("dags", airflow_releases_kept=1)
        assert ended.returncode == 0, ended.stdout
        assert processes(host) == before
    assert live(host) != release
    assert not host.file(other).exists
    assert airflow.finish("newcomer", airflow.trigger("newcomer")) == "success"
    run_id = airflow.trigger("sleeper")
    airflow.finish("sleeper", run_id)
    assert_first_try(airflow, run_id, "four")
    host.check_output(f"touch {alarm}")
    assert_first_try(airflow, caught, "two")


def test_dags_alone_are_no_way_for_packages(host: Host, long_run: str, tmp_path: Path) -> None:
    lock = tmp_path / "airflow.txt"
    lock.write_text((PROJECT / "requirements/airflow.txt").read_text() + "# others\n")
    ended = deploy("dags", airflow_requirements=str(lock))
    assert ended.returncode != 0
    assert "deploy with playbooks/deploy.yml" in said(ended)


def test_a_rollback_brings_back_the_release_that_it_is_told(host: Host, airflow: Airflow, long_run: str) -> None:
    before = live(host)
    previous = host.check_output("basename $(realpath /opt/airflow/previous)")
    ended = deploy("rollback", airflow_rollback_release=previous)
    assert ended.returncode == 0, ended.stdout
    assert live(host) == previous != before
    run_id = airflow.trigger("sleeper")
    airflow.finish("sleeper", run_id)
    assert_first_try(airflow, run_id, "three")
    listed = said(deploy("releases"))
    assert re.search(rf"{live(host)} deployed \S+ by \S+ commit \S+ Airflow [0-9.]+ current, confirmed", listed)
    unknown = deploy("rollback", airflow_rollback_release="000000000000")
    assert "There is no release 000000000000" in said(unknown)


def test_the_old_scheduler_ends_when_its_last_task_has_ended(host: Host, airflow: Airflow, long_run: str) -> None:
    assert_first_try(airflow, long_run, "one")
    wait_for(lambda: not host.check_output(DRAINS), 30, "the old scheduler to end")


def test_green_but_broken_goes_back_by_itself(host: Host, airflow: Airflow, long_run: str, alarm: str) -> None:
    before, edition = live(host), live_edition(host)
    # Its scheduler still runs a task when it comes back.
    run_id = sleep_for(airflow, 1200, alarm)
    # Of a machine that is gone, which nobody has renewed.
    write_lock(host, until="2026-01-01T00:30:00Z")
    # Every task fails at its start, while every component is healthy.
    ended = deploy(airflow_unit_overrides={"ProtectProc": "invisible"})
    assert ended.returncode != 0
    assert "somebody@elsewhere" in said(ended), "it should say whose stale lock it took over"
    assert "The DAG log_canary failed: Airflow runs, but its tasks do not." in said(ended)
    assert f"{before} is in service." in said(ended)
    assert live(host) == before
    assert re.search(r"commit \S+ Airflow [0-9.]+ failed, way back at", said(deploy("releases")))
    assert airflow.call("GET", f"/dags/sleeper/dagRuns/{run_id}/taskInstances/sleep")[1]["state"] == "running"
    wait_for(lambda: airflow.health() == HEALTHY, 60, "health")
    other = airflow.trigger("sleeper")
    assert airflow.finish("sleeper", other) == "success"
    host.check_output(f"touch {alarm}")
    assert_first_try(airflow, run_id, edition)


@contextmanager
def deaf(host: Host, unit: str) -> Iterator[None]:
    """Have a scheduler miss its signal, as one does where Python drops what the handler raises."""
    directory = f"/run/systemd/system/{unit}.service.d"
    stays = f"(echo [Service]; echo ExecStop=; grep drain.py /etc/systemd/system/{unit}.service)"
    host.check_output(f"mkdir {directory} && {stays} > {directory}/deaf.conf && systemctl daemon-reload")
    try:
        yield
    finally:
        host.check_output(f"rm --recursive {directory} && systemctl daemon-reload")


def takes_tasks(host: Host, process: str) -> bool:
    """Tell whether a scheduler does: once it only finishes some, it ignores SIGTERM, the 15th signal."""
    return not int(host.check_output(f"sed --quiet 's/^SigIgn:\\s*//p' /proc/{process}/status"), 16) & 1 << 14


def test_the_way_back_waits_for_no_task(host: Host, airflow: Airflow, alarm: str) -> None:
    before, edition = live(host), live_edition(host)
    wait_for(lambda: not host.check_output(DRAINS), 60, "the old scheduler to end")
    # That of the release that worked finishes one task, and that of the release that nobody confirms another.
    worked = sleep_for(airflow, 1200, alarm)
    release = "/opt/airflow/releases/unconfirmed"
    host.check_output(f"cp --archive /opt/airflow/releases/{before} {release} && echo another >> {release}/base")
    unit, process = (unit_property(host, SCHEDULER, name) for name in ("Id", "MainPID"))
    assert takes_tasks(host, process)
    with deaf(host, unit.removesuffix(".service")):
        host.check_output(f"{release}/libexec/switch && {release}/libexec/apply {COMPONENTS}")
    assert not takes_tasks(host, process), "who deploys must not meet the old one any more"
    unconfirmed = sleep_for(airflow, 1200, alarm)
    host.check_output("systemctl start lvao-airflow-way-back")
    assert live(host) == before
    wait_for(lambda: len(host.check_output(DRAINS).splitlines()) == 2, 30, "both old schedulers to finish their tasks")
    run_id = airflow.trigger("sleeper")
    assert airflow.finish("sleeper", run_id) == "success"
    assert {airflow.state("sleeper", run_id) for run_id in (worked, unconfirmed)} == {"running"}
    # None of the three is free: now it has to wait, and says for what.
    host.check_output(f"{release}/libexec/switch")
    waits = host.run(f"LVAO_WAY_BACK=true {release}/libexec/apply scheduler")
    assert waits.rc == os.EX_TEMPFAIL
    assert re.search(r"still finishes its tasks: waits for 1 task\(s\): sleeper.sleep", waits.stderr)
    host.check_output("systemctl start lvao-airflow-way-back")
    assert live(host) == before
    assert {airflow.state("sleeper", run_id) for run_id in (worked, unconfirmed)} == {"running"}
    host.check_output(f"touch {alarm}")
    for run_id in (worked, unconfirmed):
        assert_first_try(airflow, run_id, edition)
    wait_for(lambda: not host.check_output(DRAINS), 60, "the old schedulers to end")


def test_a_scheduler_that_ends_in_its_first_round_takes_nobodys_place(host: Host, airflow: Airflow) -> None:
    before, scheduler = live(host), [unit_property(host, SCHEDULER, name) for name in ("Id", "MainPID")]
    release = "/opt/airflow/releases/unconfirmed"
    host.check_output(f"rm --recursive --force {release} && cp --archive /opt/airflow/releases/{before} {release}")
    # Its loop alone reads it, when Airflow's own check of health has found the old one's heartbeat.
    fatal = "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL=often"
    host.check_output(f"echo another >> {release}/base && echo {fatal} > {release}/etc/env.d/99-fatal.env")
    host.check_output(f"{release}/libexec/switch")
    applied = host.run(f"{release}/libexec/apply {COMPONENTS}")
    assert applied.failed
    assert [unit_property(host, SCHEDULER, name) for name in ("Id", "MainPID")] == scheduler
    wait_for(lambda: not host.check_output(DRAINS), 30, "the new one to be gone")
    assert [unit_property(host, SCHEDULER, name) for name in ("Id", "MainPID")] == scheduler
    assert airflow.finish("sleeper", airflow.trigger("sleeper")) == "success"
    host.check_output("systemctl start lvao-airflow-way-back")
    assert live(host) == before
    assert [unit_property(host, SCHEDULER, name) for name in ("Id", "MainPID")] == scheduler
    wait_for(lambda: airflow.health() == HEALTHY, 60, "health")


@contextmanager
def stopped_at_its_start(host: Host, unit: str) -> Iterator[None]:
    """Have a unit's next process hang before it is a scheduler, and go on in the end."""
    directory = f"/run/systemd/system/{unit}.service.d"
    hang = "[Service]\nExecStartPost=+sh -c 'kill -STOP $MAINPID'"
    host.check_output(
        f"mkdir {directory} && printf {shlex.quote(hang)} > {directory}/hang.conf && systemctl daemon-reload"
    )
    try:
        yield
    finally:
        host.check_output(f"rm --recursive {directory} && systemctl daemon-reload")
        host.run(f"kill -CONT {unit_property(host, unit, 'MainPID')}")


def test_a_scheduler_that_hangs_at_its_start_takes_nobodys_place_and_no_lock(host: Host, airflow: Airflow) -> None:
    before = [unit_property(host, SCHEDULER, name) for name in ("Id", "MainPID")]
    release = f"/opt/airflow/releases/{live(host)}"
    apply = f"env LVAO_START_SECONDS=10 {release}/libexec/apply scheduler"
    # Beside one that works.
    second = next(unit for letter in "abc" if f"{(unit := f'{SCHEDULER}-{letter}')}.service" != before[0])
    notes = f"/run/lvao-airflow/{before[0].removesuffix('.service')}/base"
    base = host.file(notes).content_string
    host.check_output(f"echo another > {notes}")
    with stopped_at_its_start(host, second):
        refused = host.run(f"timeout 60 {apply}")
        assert refused.rc == 1
        assert f"{second} has no heartbeat" in refused.stderr
        host.check_output("flock --nonblock /run/lvao-airflow/lock true")
    host.check_output(f"printf %s {shlex.quote(base)} > {notes}")
    assert [unit_property(host, SCHEDULER, name) for name in ("Id", "MainPID")] == before
    gone = {"inactive", "failed"}
    wait_for(lambda: unit_property(host, second, "ActiveState") in gone, 120, "the second scheduler to end")
    assert airflow.finish("sleeper", airflow.trigger("sleeper")) == "success"
    # And where there is no other: it goes on by itself once it can.
    live_unit = before[0].removesuffix(".service")
    host.check_output(f"systemctl stop {live_unit}")
    with stopped_at_its_start(host, live_unit):
        refused = host.run(f"timeout 60 {apply}")
        assert refused.rc == 1
        assert f"{live_unit} has no heartbeat" in refused.stderr
    wait_for(lambda: airflow.health() == HEALTHY, 90, "health")
    assert airflow.finish("sleeper", airflow.trigger("sleeper")) == "success"
    assert not host.check_output(apply), "it is the live one"


def test_a_handover_that_was_cut_off_is_brought_to_its_end(host: Host) -> None:
    """It is so even where the second scheduler misses its signal."""
    *others, scheduler = processes(host)
    wait_for(lambda: not host.check_output(DRAINS), 60, "the old scheduler to end")
    live_unit = unit_property(host, SCHEDULER, "Id").removesuffix(".service")
    second = next(unit for letter in "abc" if (unit := f"{SCHEDULER}-{letter}") != live_unit)
    host.check_output(f"ln -snf $(realpath /opt/airflow/current) /opt/airflow/schedulers/{second}")
    with deaf(host, second):
        host.check_output(f"systemctl start {second}")
        # As each deploy does.
        host.check_output(f"/opt/airflow/current/libexec/apply {COMPONENTS}")
        assert processes(host) == [*others, scheduler]
        wait_for(lambda: unit_property(host, second, "ActiveState") == "inactive", 90, "the second scheduler to end")


@pytest.fixture
def hasty_watchdog(host: Host) -> Iterator[str]:
    """Have the watchdog look with less patience, and only when it is told to."""
    unit = "lvao-airflow-watchdog"
    assert host.service(f"{unit}.timer").is_running
    command = host.check_output(f"sed -n 's/^ExecStart=//p' /etc/systemd/system/{unit}.service").split()
    hasty = " ".join([*command[:2], "10", *command[3:]])
    overrides = {
        "service": f"[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=\nExecStart={hasty}\n",
        "timer": "[Timer]\nOnActiveSec=\nOnActiveSec=1d\n",
    }
    directories = [f"/run/systemd/system/{unit}.{kind}.d" for kind in overrides]
    for directory, override in zip(directories, overrides.values(), strict=True):
        host.check_output(f"mkdir {directory} && echo {shlex.quote(override)} > {directory}/hasty.conf")
    again = f"systemctl daemon-reload && systemctl restart {unit}.timer"
    host.check_output(again)
    yield unit
    host.check_output(f"rm --recursive {' '.join(directories)} && {again}")


def test_a_scheduler_that_lost_its_database_is_relieved_and_keeps_its_tasks(
    host: Host, airflow: Airflow, alarm: str, hasty_watchdog: str
) -> None:
    wait_for(lambda: not host.check_output(DRAINS), 60, "the old schedulers to end")
    kept: list[str] = []
    # The second time beside one that still finishes a task, and whose heartbeat is kept.
    for number in (1, 2):
        kept.append(sleep_for(airflow, 1200, alarm))
        live_unit, began = unit_property(host, SCHEDULER, "Id"), host.check_output("date +%s")
        journal = f"journalctl --no-pager --unit={live_unit} --since=@{began} --grep='Shutting down LocalExecutor'"
        # As an upgrade of it does, which must not wait for the task.
        host.check_output("timeout 60 systemctl stop postgresql")
        try:
            wait_for(lambda said=journal: host.run(said).succeeded, 60, "the scheduler's loop to end")
        finally:
            host.check_output("timeout 60 systemctl start postgresql && timeout 60 systemctl restart caddy")

        def is_relieved(before: str = live_unit) -> bool:
            host.check_output(f"systemctl start {hasty_watchdog}")
            return unit_property(host, SCHEDULER, "Id") != before

        wait_for(is_relieved, 120, "another scheduler")
        assert len(host.check_output(DRAINS).splitlines()) == number
        assert airflow.finish("sleeper", airflow.trigger("sleeper")) == "success"
        assert {airflow.state("sleeper", run_id) for run_id in kept} == {"running"}
    host.check_output(f"touch {alarm}")
    for run_id in kept:
        assert_first_try(airflow, run_id, live_edition(host))
    wait_for(lambda: not host.check_output(DRAINS), 60, "the old schedulers to end")


def watch_until_followed(host: Host, watchdog: str, process: str) -> None:
    """Have the watchdog look until another process is the live scheduler."""

    def is_followed() -> bool:
        host.check_output(f"systemctl start {watchdog}")
        return unit_property(host, SCHEDULER, "MainPID") not in {"0", process}

    wait_for(is_followed, 120, "another scheduler")


def test_a_scheduler_whose_successor_has_to_wait_is_followed_though_the_caller_is_gone(
    host: Host, airflow: Airflow, alarm: str, hasty_watchdog: str
) -> None:
    run_id = sleep_for(airflow, 1200, alarm)
    unit, before = unit_property(host, SCHEDULER, "Id"), unit_property(host, SCHEDULER, "MainPID")
    # As after an upgrade of its libraries.
    host.check_output(f"echo another > /run/lvao-airflow/{unit.removesuffix('.service')}/base")
    waits = host.run("LVAO_HANDOVER=false /opt/airflow/current/libexec/apply scheduler")
    assert waits.rc == os.EX_TEMPFAIL
    host.check_output(f"touch {alarm}")
    assert_first_try(airflow, run_id, live_edition(host))
    watch_until_followed(host, hasty_watchdog, before)
    assert airflow.finish("sleeper", airflow.trigger("sleeper")) == "success"


def test_a_scheduler_that_hangs_is_followed_by_another_where_two_cannot_be(
    host: Host, airflow: Airflow, alarm: str, hasty_watchdog: str
) -> None:
    run_id = sleep_for(airflow, 1200, alarm)
    unit, before = unit_property(host, SCHEDULER, "Id"), unit_property(host, SCHEDULER, "MainPID")
    alone = f"/run/systemd/system/{hasty_watchdog}.service.d/alone.conf"
    host.check_output(f"printf '[Service]\nEnvironment=LVAO_HANDOVER=false\n' > {alone} && systemctl daemon-reload")
    host.check_output(f"kill -STOP {before}")
    try:

        def is_retired() -> bool:
            host.check_output(f"systemctl start {hasty_watchdog}")
            return unit in host.check_output(DRAINS)

        wait_for(is_retired, 90, "the scheduler to be retired")
    finally:
        host.check_output(f"kill -CONT {before}")
    assert airflow.state("sleeper", run_id) == "running"
    host.check_output(f"touch {alarm}")
    assert_first_try(airflow, run_id, live_edition(host))
    watch_until_followed(host, hasty_watchdog, before)
    assert airflow.finish("sleeper", airflow.trigger("sleeper")) == "success"


MOMENTS = [
    "make | Copy its configuration",
    "switch | Make the release the current one",
    "apply | Start the units",
]


def test_killed_deploys_leave_a_running_airflow_and_the_next_one_works(
    host: Host, airflow: Airflow, dags: Path, long_run: str
) -> None:
    for number, moment in enumerate(MOMENTS):
        write_edition(dags, f"killed {number}")
        with Deploy(airflow_env_host={"LVAO_TEST": str(number)}) as killed:
            killed.wait_until_it_says(moment)
        assert host.file("/opt/airflow/current/release.json").exists
        wait_for(lambda: airflow.health() == HEALTHY, 90, f"health after: {moment}")
        assert airflow.finish("sleeper", airflow.trigger("sleeper")) == "success", f"a task after: {moment}"
    ended = deploy()
    assert ended.returncode == 0, ended.stdout
    assert "took over" in said(ended).lower() or "taken over" in said(ended).lower()
    run_id = airflow.trigger("sleeper")
    airflow.finish("sleeper", run_id)
    assert_first_try(airflow, run_id, f"killed {len(MOMENTS) - 1}")


def test_a_release_that_nobody_confirms_goes_by_itself(host: Host, airflow: Airflow, dags: Path, long_run: str) -> None:
    """It does so even if what it goes back to does not start at once."""
    before = live(host)
    way_back, broken = "lvao-airflow-way-back", "/run/systemd/system/lvao-airflow-dag-processor.service.d"
    write_edition(dags, "unconfirmed")
    with Deploy(airflow_confirm_timeout="20s", airflow_env_host={"LVAO_TEST": "unconfirmed"}) as killed:
        killed.wait_until_it_says("switch | Make")
    wait_for(lambda: live(host) != before, 20, "the switch")
    host.check_output(f"mkdir --parents {broken} && printf '[Service]\nExecStartPre=false\n' > {broken}/broken.conf")
    try:
        # It may miss a signal that it could handle, and a stop would then meet the way back.
        host.check_output("systemctl daemon-reload && systemctl kill --signal=KILL lvao-airflow-dag-processor")
        wait_for(lambda: live(host) == before, 60, "the way back")
        wait_for(lambda: unit_property(host, way_back, "NRestarts") != "0", 60, "its second try")
    finally:
        host.check_output(f"rm --recursive {broken} && systemctl daemon-reload")
    wait_for(lambda: unit_property(host, way_back, "ActiveState") == "inactive", 90, "its end")
    wait_for(lambda: airflow.health() == HEALTHY, 90, "health")
    journal = host.check_output(f"journalctl --no-pager --output=cat --unit={way_back}")
    assert f"was not confirmed: going back to {before}." in journal
    assert journal.splitlines().count(f"{before} is in service.") >= 1


def test_a_second_deploy_is_refused_and_told_of_the_first(host: Host) -> None:
    with Deploy() as first:
        first.wait_until_it_says("deploy_lock : take")
        first.wait_until_it_says("TASK")
        ended = deploy()
    assert ended.returncode != 0
    assert re.search(r"Locked by \S+@\S+ for playbooks/deploy.yml", said(ended))
    assert "make unlock ENV=molecule" in said(ended)


def test_hosts_are_not_set_up_during_a_deploy_until_its_lock_is_broken(host: Host) -> None:
    write_lock(host, until="2099-01-01T00:00:00Z")
    refused = deploy("site")
    assert refused.returncode != 0
    assert "Locked by somebody@elsewhere" in said(refused)
    assert "Set up every host" not in refused.stdout
    assert "somebody@elsewhere" in said(deploy("unlock"))
    assert not host.file(LOCK).exists


# As a secret of the environment.
KEPT = "a-key-that-a-rollback-keeps"


# Deploys that move the database's schema, or that may not run two schedulers, wait for the tasks, within bounds.


def test_past_the_bound_it_fails_with_the_old_release_in_service(host: Host, airflow: Airflow, alarm: str) -> None:
    before = live(host)
    run_id = sleep_for(airflow, 1200, alarm)
    # Long enough for the old scheduler to say what it waits for, on a machine that does much else.
    values = {"airflow_scheduler_handover": False, "airflow_scheduler_drain_timeout": 60}
    ended = deploy(airflow_scheduler_drain_timeout_action="fail", airflow_env_host={"LVAO_TEST": "fail"}, **values)
    assert ended.returncode != 0
    assert "airflow_scheduler_handover is false" in said(ended)
    assert f"the old scheduler still waits for 1 task(s): sleeper.sleep ({run_id})" in said(ended)
    assert live(host) == before
    other = airflow.trigger("sleeper")
    assert airflow.finish("sleeper", other) == "success"
    host.check_output(f"touch {alarm}")
    assert_first_try(airflow, run_id, live_edition(host))


def test_past_the_bound_it_kills_the_tasks(host: Host, airflow: Airflow) -> None:
    run_id = sleep_for(airflow, 600)
    values = {"airflow_scheduler_handover_memory_mb": 10**9, "airflow_scheduler_drain_timeout": 20}
    values |= {"airflow_env_host": {"LVAO_TEST": "kill"}, "airflow_unit_overrides": {"Nice": 1}}
    values["airflow_secret_key"] = KEPT
    ended = deploy(airflow_scheduler_drain_timeout_action="kill", **values)
    assert ended.returncode == 0, ended.stdout
    assert re.search(r"there is room for \d+ MB, less than airflow_scheduler_handover_memory_mb", said(ended))
    assert_lost(host, airflow, run_id)


def assert_lost(host: Host, airflow: Airflow, run_id: str) -> None:
    """Check that a task of the sleeper was killed, with its scheduler, and that others run."""
    assert not host.check_output(DRAINS)
    other = airflow.trigger("sleeper")
    assert airflow.finish("sleeper", other) == "success"
    airflow.call("PATCH", f"/dags/sleeper/dagRuns/{run_id}", {"state": "failed"})
    path = f"/dags/sleeper/dagRuns/{run_id}/taskInstances/sleep"
    assert airflow.call("GET", path)[1]["state"] != "success"


def test_a_rollback_brings_back_the_configuration_before_and_no_secret(host: Host, airflow: Airflow) -> None:
    fragment = "/etc/airflow/env.d/90-extra.env"
    assert host.file(fragment).contains('LVAO_TEST="kill"')
    command = host.file("/opt/airflow/current/bin/airflow-sandboxed")
    assert command.contains("Nice=1")
    before = processes(host)
    with burst(host, airflow, 24, 10):
        ended = deploy("rollback")
    assert ended.returncode == 0, ended.stdout
    assert not host.file(fragment).contains('LVAO_TEST="kill"')
    assert not command.contains("Nice=1")
    assert not {*before} & {*processes(host)}
    # No process shows its environment: root's notes of a unit say with which secrets its process was started.
    notes = [unit_property(host, unit, "Id").removesuffix(".service") for unit in UNITS]
    started_with = {host.check_output(f"readlink /run/lvao-airflow/{unit}/secrets") for unit in notes}
    assert started_with == {host.check_output("readlink /opt/airflow/secrets/current")}
    assert (
        f'AIRFLOW__API__SECRET_KEY="{KEPT}"'
        in host.file("/opt/airflow/secrets/current/env.d/10-keys.env").content_string
    )
    run_id = airflow.trigger("sleeper")
    assert airflow.finish("sleeper", run_id) == "success"


def test_a_scheduler_that_is_killed_loses_what_it_ran_alone(host: Host, airflow: Airflow) -> None:
    with burst(host, airflow, 24, 10, lost=9):
        host.check_output(f"sleep 5; systemctl kill --signal=KILL {SCHEDULER}")


def test_tasks_outlive_an_execution_api_that_is_away(host: Host, airflow: Airflow) -> None:
    """Some run when it goes, some start while it is away; nobody holds what they ask."""
    with burst(host, airflow, 16, 5):
        host.check_output("sleep 5; systemctl stop caddy; sleep 60; systemctl start caddy")


def test_a_stop_lets_tasks_finish_within_its_bound(host: Host, airflow: Airflow) -> None:
    short_run = sleep_for(airflow, 10)
    host.check_output(f"systemctl restart {SCHEDULER}")
    assert_first_try(airflow, short_run, live_edition(host))
    long_run = sleep_for(airflow, 600)
    host.check_output(f"systemctl restart {SCHEDULER}")
    assert_lost(host, airflow, long_run)


def test_a_reboot_lets_tasks_finish_and_brings_all_back(host: Host, airflow: Airflow) -> None:
    run_id = sleep_for(airflow, 10)
    subprocess.run(["docker", "restart", "--time=120", HOST], check=True, capture_output=True)
    wait_for(lambda: airflow.health() == HEALTHY, 120, "health after the reboot")
    assert_first_try(airflow, run_id, live_edition(host))
    other = airflow.trigger("sleeper")
    assert airflow.finish("sleeper", other) == "success"


BUCKET = "lvao-molecule-airflow"
S3_HOOK = "from airflow.providers.amazon.aws.hooks.s3 import S3Hook"
MIGRATION = '''"""A migration of a test."""

from alembic import op

revision = "{revision}"
down_revision = "{after}"
branch_labels = depends_on = None


def upgrade():
    {upgrade}


def downgrade():
    {downgrade}
'''


def lock_with_migration(host: Host, folder: Path, *, upgrade: str = "pass", downgrade: str = "pass") -> str:
    """Lock one package more, which adds a migration to those of FAB and two to those of Airflow.

    One of each makes a table, the other of Airflow's does what the test wants.

    Args:
        host: Where its wheel is put.
        folder: Where the lock is written.
        upgrade: What the other does.
        downgrade: How it is undone.

    Returns:
        The lock's path.
    """
    release = json.loads(host.file("/opt/airflow/current/release.json").content_string)
    heads = release["schema_heads"]

    def table(name: str) -> dict[str, str]:
        statements = {"upgrade": f"CREATE TABLE {name} (id int)", "downgrade": f"DROP TABLE {name}"}
        return {step: f'op.execute("{statement}")' for step, statement in statements.items()}

    first, second, third = "0123456789ab", "123456789abc", "23456789abcd"
    own = {"upgrade": upgrade, "downgrade": downgrade}
    migrations = {
        "airflow/migrations": {
            first: MIGRATION.format(revision=first, after=heads["alembic_version"], **table("lvao_test")),
            second: MIGRATION.format(revision=second, after=first, **own),
        },
        "airflow/providers/fab/migrations": {
            third: MIGRATION.format(revision=third, after=heads["alembic_version_fab"], **table("lvao_test_fab")),
        },
    }
    content = io.BytesIO()
    facts = "lvao_migration-1.0.dist-info"
    with zipfile.ZipFile(content, "w") as wheel:
        for package, sources in migrations.items():
            for revision, source in sources.items():
                wheel.writestr(f"{package}/versions/9999_{revision}.py", source)
        wheel.writestr(f"{facts}/METADATA", "Metadata-Version: 2.1\nName: lvao-migration\nVersion: 1.0\n")
        wheel.writestr(
            f"{facts}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{facts}/RECORD", "")
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    path = f"/root/{digest[:8]}/lvao_migration-1.0-py3-none-any.whl"
    encoded = base64.b64encode(content.getvalue()).decode()
    host.check_output(f"mkdir -p $(dirname {path}) && echo {encoded} | base64 -d > {path}")
    lock = folder / "airflow.txt"
    packages = (PROJECT / "requirements/airflow.txt").read_text()
    lock.write_text(f"{packages}lvao-migration @ file://{path} --hash=sha256:{digest}\n")
    return str(lock)


def has_tables(host: Host) -> bool:
    """Tell whether the migrations have been done, both or none."""
    query = "SELECT to_regclass('lvao_test') IS NOT NULL, to_regclass('lvao_test_fab') IS NOT NULL"
    found = host.check_output(f'runuser -u postgres -- psql --tuples-only --no-align {BUCKET} -c "{query}"')
    assert found in {"t|t", "f|f"}
    return found == "t|t"


# What the migration of two tests does, which share its packages.
SLOW = 'op.execute("SELECT pg_sleep(20)")'


def test_a_database_that_cannot_be_dumped_is_not_migrated(host: Host, tmp_path: Path) -> None:
    before = processes(host), live(host)
    dumps, old = "/var/backups/lvao-airflow", "/usr/local/bin/pg_dump"
    host.check_output(f"mkdir --parents {dumps} && mount -t tmpfs -o size=64k,mode=0700 tmpfs {dumps}")
    host.check_output(f"printf '#!/bin/sh\necho \"pg_dump (PostgreSQL) 9.6.24\"\n' > {old} && chmod +x {old}")
    try:
        ended = deploy(airflow_requirements=lock_with_migration(host, tmp_path, upgrade=SLOW))
    finally:
        host.check_output(f"umount {dumps} && rm {old}")
    assert ended.returncode != 0
    assert f"{dumps} on {HOST} has 64.00 KB left" in said(ended)
    assert f"and pg_dump on {HOST} is 9, which is older" in said(ended)
    assert (processes(host), live(host)) == before


def test_a_migration_waits_for_the_tasks_outlives_its_deploy_and_can_be_undone(
    host: Host, airflow: Airflow, alarm: str, tmp_path: Path
) -> None:
    before, edition = live(host), live_edition(host)
    run_id = sleep_for(airflow, 1200, alarm)
    values = {
        "airflow_requirements": lock_with_migration(host, tmp_path, upgrade=SLOW),
        "airflow_scheduler_drain_timeout": 5,  # and then it waits on
    }
    for wake in (False, True):
        with Deploy(**values) as waiting:
            waiting.wait_until_it_says(f"waits for 1 task(s): sleeper.sleep ({run_id})")
            # Or nobody would start a scheduler, if the deploy died now.
            assert host.check_output("systemctl is-active lvao-airflow-way-back.timer") == "active"
            reason = "finishes its tasks before the new one starts: the database schema moves."
            assert reason in " ".join(waiting.said.split())
            if wake:
                for _ in range(3):
                    waiting.wait_until_it_says("wait | Let some time pass")
                assert (
                    max(map(int, re.findall(r"After (\d+) s", waiting.said)))
                    > values["airflow_scheduler_drain_timeout"]
                )
                host.check_output(f"touch {alarm}")
                waiting.wait_until_it_says("dump | Dump")  # which it says once it has
    assert_first_try(airflow, run_id, edition)
    assert (live(host), has_tables(host)) == (before, False)

    with Deploy(**values):
        wait_for(lambda: host.service("lvao-airflow-migration").is_running, 600, "the migration to begin")
    # It goes on without the deploy, and the next one waits for it.
    with steady_requests(requests_of_users(host, airflow)) as answers:
        ended = deploy(**values)
    assert ended.returncode == 0, ended.stdout
    assert {answer.status for answer in answers} == {200}
    said_back = host.check_output("journalctl --no-pager --output=cat --unit=lvao-airflow-way-back")
    assert f"The database has been migrated for {live(host)}: it goes live." in said_back
    assert f"the database's schema has moved since {before}: the host stays on it" in said_back
    assert live(host) != before
    assert has_tables(host)
    assert host.check_output("basename $(realpath /opt/airflow/confirmed)") == live(host)
    dump = host.check_output(f"ls -t /var/backups/lvao-airflow/{BUCKET}-*-before-{live(host)}.pgc | head -n 1")
    assert "lvao_test" not in host.check_output(f"pg_restore --list {dump}")
    stored = f"S3Hook('s3logs').get_key('dumps/{Path(dump).name}', '{BUCKET}').content_length"
    assert run_with_airflow(host, S3_HOOK, stored) == host.file(dump).size
    began = host.check_output("date +%s")
    undone = deploy("rollback")
    assert undone.returncode == 0, undone.stdout
    assert live(host) == before
    assert not has_tables(host)
    # What asks for it must not meet a database from which it is gone.
    stopped = ("lvao-airflow-webserver", "lvao-airflow-execution-api")
    units = " ".join(f"--unit={unit}" for unit in (*stopped, "lvao-airflow-migration"))
    told = host.check_output(f"journalctl --no-pager --output=cat --since=@{began} {units}")
    for unit in stopped:
        assert 0 <= told.find(f"Stopped {unit}") < told.find("Started lvao-airflow-migration")


@pytest.mark.parametrize(
    ("step", "playbooks"),
    [("upgrade", ["deploy"]), ("downgrade", ["deploy", "rollback"])],
    ids=["a migration that fails", "one that cannot be undone"],
)
def test_a_migration_that_fails_changes_nothing(
    host: Host, airflow: Airflow, tmp_path: Path, step: str, playbooks: list[str]
) -> None:
    lock = lock_with_migration(host, tmp_path, **{step: 'raise RuntimeError("no way for this one")'})
    *others, failing = playbooks
    if others:
        VALUES["airflow_requirements"] = lock
    for playbook in others:
        assert deploy(playbook, airflow_requirements=lock).returncode == 0
    before, had_table = live(host), has_tables(host)
    ended = deploy(failing, airflow_requirements=lock)
    assert ended.returncode != 0
    assert "no way for this one" in said(ended)
    assert f"{before} is in service." in said(ended)
    assert (live(host), has_tables(host)) == (before, had_table)
    wait_for(lambda: airflow.health() == HEALTHY, 60, "health")
    run_id = airflow.trigger("sleeper")
    assert airflow.finish("sleeper", run_id) == "success"


def test_the_next_deploy_goes_on_with_a_migration_that_was_cut_off(host: Host, airflow: Airflow) -> None:
    before, older = live(host), host.check_output("realpath /opt/airflow/previous")
    # As a rollback leaves it that is killed when it has migrated back the one part of two.
    revision = json.loads(host.file(f"{older}/release.json").content_string)["schema_heads"]["alembic_version_fab"]
    undone = "DROP TABLE lvao_test_fab; UPDATE alembic_version_fab SET version_num = :'revision'"
    host.check_output(f'echo "{undone}" | runuser -u postgres -- psql {BUCKET} --set=revision={revision}')
    host.check_output(f"/opt/airflow/current/libexec/drain && ln --symbolic {older} /opt/airflow/migrating")
    ended = deploy()
    assert ended.returncode == 0, ended.stdout
    journal = host.check_output("journalctl --no-pager --output=cat --unit=lvao-airflow-way-back")
    assert f"the database has the schema neither of {before} nor of {Path(older).name}." in journal
    assert (live(host), has_tables(host)) == (before, True)
    assert "canary | Wait for its end" in ended.stdout, "it was confirmed with another schema"
    assert not host.file("/opt/airflow/migrating").exists
    run_id = airflow.trigger("sleeper")
    assert airflow.finish("sleeper", run_id) == "success"


def test_units_that_a_switch_left_unfinished_are_made_good(host: Host) -> None:
    before, unit = processes(host), "/etc/systemd/system/lvao-airflow-triggerer.service"
    whole = host.file(unit).content
    host.check_output(f"truncate --size=100 {unit}")
    ended = deploy()
    assert ended.returncode == 0, ended.stdout
    assert host.file(unit).content == whole
    assert processes(host) == before
    host.check_output(f"truncate --size=100 {unit} && systemctl start lvao-airflow-way-back")
    assert host.file(unit).content == whole
    assert processes(host) == before
    # Its timer is no unit of a release that runs, whose start would enable it.
    for verb, expected in (("disable", 1), ("enable", 0)):
        host.check_output(f"systemctl {verb} lvao-airflow-way-back.timer")
        assert host.run("/opt/airflow/current/libexec/switched").rc == expected


def test_memory_for_a_second_scheduler_is_also_asked_of_their_slice(host: Host) -> None:
    ask, slice_ = "/opt/airflow/current/libexec/room", f"{SCHEDULER}.slice"
    bound, used = (unit_property(host, slice_, name) for name in ("MemoryMax", "MemoryCurrent"))
    little = int(used) + 100 * 2**20
    assert int(host.check_output(ask)) > little / 2**20
    host.check_output(f"systemctl set-property --runtime {slice_} MemoryMax={little}")
    try:
        room = int(host.check_output(ask))
    finally:
        host.check_output(f"systemctl set-property --runtime {slice_} MemoryMax={bound}")
    assert 99 <= room < little / 2**20


def test_a_library_that_was_upgraded_is_taken_up_by_the_next_deploy(host: Host, airflow: Airflow) -> None:
    before, release = processes(host), live(host)
    library = host.check_output(f"grep --only-matching '/usr/lib.*/libc.so.6$' /proc/{before[0]}/maps | head -n 1")
    # As an upgrade does.
    host.check_output(f"cp --archive {library} {library}.new && mv {library}.new {library}")
    ended = deploy()
    assert ended.returncode == 0, ended.stdout
    assert live(host) == release
    assert "Look how much memory a second scheduler could take" in ended.stdout, "it restarts the scheduler, too"
    assert not {*before} & {*processes(host)}
    apply = f"/opt/airflow/current/libexec/apply {COMPONENTS}"
    assert not host.check_output(apply)
    assert airflow.finish("sleeper", airflow.trigger("sleeper")) == "success"


def test_old_releases_environments_and_dumps_are_removed(host: Host) -> None:
    links = "realpath /opt/airflow/{current,confirmed,previous} /opt/airflow/schedulers/*"
    used = {*host.check_output(f"bash -c '{links}'").split()}
    releases = {*host.check_output("ls -d /opt/airflow/releases/*").split()}
    assert used <= releases
    lived = host.check_output("cut --delimiter=' ' --fields=1 /opt/airflow/history").split()
    assert {Path(release).name for release in releases} <= {*lived}, "one that was refused takes another's place"
    assert 5 <= len(releases) <= 5 + len(used)
    # No more than what schedulers run from: one may still finish its tasks.
    assert len(host.check_output("ls /opt/airflow/schedulers").split()) <= 2
    wanted = {*host.check_output("realpath /opt/airflow/releases/*/venv").split()}
    assert {*host.check_output("ls -d /opt/airflow/venvs/*").split()} == wanted
    assert len(host.check_output("ls /var/backups/lvao-airflow/*.pgc").split()) == VALUES["airflow_database_dumps_kept"]
