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
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest
from conftest import (
    HEALTHY,
    INVENTORY,
    PROJECT,
    Airflow,
    run_with_airflow,
    said,
    steady_requests,
    unit_property,
    wait_for,
)
from deploys import (
    BUCKET,
    COMPONENTS,
    DRAINS,
    HOST,
    SCHEDULER,
    UNITS,
    VALUES,
    assert_first_try,
    assert_lost,
    burst,
    deploy,
    live,
    live_edition,
    processes,
    requests_of_users,
    sleep_for,
    steady_runs,
    write_edition,
)
from testinfra.host import Host

pytest_plugins = ["deploys"]
# Of the project, and of this repository where that is another.
COMMIT = r"commit \S+(?: deployed by lvao-airflow at \S+)?"


class Deploy:
    """A deploy that runs while a test goes on."""

    def __init__(self, playbook: str = "deploy", **values: object) -> None:
        """Start it.

        Args:
            playbook: Its name in `playbooks/`, without the ending.
            values: Variables.
        """
        variables = json.dumps(VALUES | values)
        command = ["ansible-playbook", "-i", INVENTORY, f"playbooks/{playbook}.yml", "--extra-vars", variables]
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


# It wakes the long run.
MORNING = "/var/lib/airflow/morning"


@pytest.fixture(scope="module")
def long_run(host: Host, airflow: Airflow, dags: Path) -> Iterator[str]:
    """Deploy the DAGs, start a long task, and see in the end that nothing of what came between has harmed it."""
    ended = deploy()
    assert ended.returncode == 0, ended.stdout
    run_id = sleep_for(airflow, 7200, MORNING)
    yield run_id
    host.check_output(f"touch {MORNING}")
    assert_first_try(airflow, run_id, "one")


# What a deploy says one or two steps before it changes what runs.
GATE = "gate | Import every DAG"


def test_a_deploy_waits_for_no_task_and_no_task_or_request_for_it(
    host: Host, airflow: Airflow, dags: Path, long_run: str, tmp_path: Path
) -> None:
    short_run = sleep_for(airflow, 60)
    write_edition(dags, "two")
    packages = tmp_path / "airflow.txt"
    packages.write_text((PROJECT / "requirements/airflow.txt").read_text() + "# changed\n")
    VALUES["airflow_requirements"] = str(shutil.copy(packages, dags.parent))
    before = processes(host)
    requests = steady_requests(requests_of_users(host, airflow), per_second=5)
    with Deploy() as deployed, requests as answers, steady_runs(airflow) as runs:
        # For it to be at its height when the new scheduler takes over.
        deployed.wait_until_it_says(GATE)
        with burst(airflow, 40, 20, schedulers=2):
            code = deployed.finish()
        early = {airflow.state("sleeper", run_id) for run_id in runs[: len(runs) // 2]}
    assert code == 0, deployed.said
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


LOCK = "/run/lvao-airflow/deploy.json"


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
    refused, *_ = re.findall(rf"(\w+) made \S+ by \S+ {COMMIT} Airflow [0-9.]+ never live", listed)
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
    assert re.search(rf"{live(host)} deployed \S+ by \S+ {COMMIT} Airflow [0-9.]+ current, confirmed", listed)
    unknown = deploy("rollback", airflow_rollback_release="000000000000")
    assert "There is no release 000000000000" in said(unknown)


def test_the_old_scheduler_ends_when_its_last_task_has_ended(host: Host, airflow: Airflow, long_run: str) -> None:
    host.check_output(f"touch {MORNING}")
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
    assert re.search(rf"{COMMIT} Airflow [0-9.]+ failed, way back at", said(deploy("releases")))
    assert airflow.call("GET", f"/dags/sleeper/dagRuns/{run_id}/taskInstances/sleep")[1]["state"] == "running"
    wait_for(lambda: airflow.health() == HEALTHY, 60, "health")
    other = airflow.trigger("sleeper")
    assert airflow.finish("sleeper", other) == "success"
    host.check_output(f"touch {alarm}")
    assert_first_try(airflow, run_id, edition)


MOMENTS = [
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


def test_a_rollback_brings_back_the_configuration_before_and_no_secret(host: Host, airflow: Airflow) -> None:
    fragment = "/etc/airflow/env.d/90-extra.env"
    assert host.file(fragment).contains('LVAO_TEST="kill"')
    command = host.file("/opt/airflow/current/bin/airflow-sandboxed")
    assert command.contains("Nice=1")
    before = processes(host)
    with Deploy("rollback") as undone:
        undone.wait_until_it_says(GATE)
        with burst(airflow, 24, 20, schedulers=2):
            code = undone.finish()
    assert code == 0, undone.said
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


@pytest.fixture(scope="module")
def dump_key(host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Have dumps encrypted to a key of a person's, beside another one, and copy its private part to the host."""
    key = tmp_path_factory.mktemp("key") / "ssh"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ops of lvao", "-f", key], check=True)
    other = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
    VALUES["airflow_database_dump_recipients"] = [key.with_suffix(".pub").read_text().strip(), other]
    host.check_output(f"umask 077 && printf %s {shlex.quote(key.read_text())} > /root/dump-key")
    return "/root/dump-key"


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
    host: Host, airflow: Airflow, alarm: str, dump_key: str, tmp_path: Path
) -> None:
    before, edition = live(host), live_edition(host)
    run_id = sleep_for(airflow, 1200, alarm)
    expired = f"dumps/{BUCKET}-20200101T000000Z-before-old.pgc"
    run_with_airflow(host, S3_HOOK, f"S3Hook('s3logs').load_string('old', '{expired}', '{BUCKET}')")
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
    with steady_requests(requests_of_users(host, airflow), per_second=5) as answers:
        ended = deploy(**values)
    assert ended.returncode == 0, ended.stdout
    assert {answer.status for answer in answers} == {200}
    said_back = host.check_output("journalctl --no-pager --output=cat --unit=lvao-airflow-way-back")
    assert f"The database has been migrated for {live(host)}: it goes live." in said_back
    assert f"the database's schema has moved since {before}: the host stays on it" in said_back
    assert live(host) != before
    assert has_tables(host)
    assert host.check_output("basename $(realpath /opt/airflow/confirmed)") == live(host)
    dump = host.check_output(f"ls -t /var/backups/lvao-airflow/{BUCKET}-*-before-{live(host)}.pgc.age | head -n 1")
    assert not host.run("ls -A /var/backups/lvao-airflow | grep --invert-match '[.]pgc[.]age$'").stdout
    listed = host.check_output(f"age --decrypt --identity {dump_key} {dump} | pg_restore --list")
    assert "TABLE DATA public connection" in listed
    assert "lvao_test" not in listed
    stored = f"S3Hook('s3logs').get_key('dumps/{Path(dump).name}', '{BUCKET}').get()['Body'].read()"
    facts = f"[len(stored := {stored}), stored[:21].decode()]"
    assert run_with_airflow(host, S3_HOOK, facts) == [host.file(dump).size, "age-encryption.org/v1"]
    assert not run_with_airflow(host, S3_HOOK, f"S3Hook('s3logs').check_for_key('{expired}', '{BUCKET}')")
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
    ended = deploy(failing, airflow_requirements=lock, airflow_database_dump_recipients=[])
    assert f".pgc stays on {HOST} alone, for it is not encrypted" in said(ended)
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
    assert len(host.check_output("ls /var/backups/lvao-airflow").split()) == VALUES["airflow_database_dumps_kept"]
