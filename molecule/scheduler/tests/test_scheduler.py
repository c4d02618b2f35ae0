"""What may befall a scheduler, on a host that works meanwhile."""

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import HEALTHY, Airflow, unit_property, wait_for
from deploys import (
    COMPONENTS,
    DRAINS,
    HOST,
    SCHEDULER,
    assert_first_try,
    assert_lost,
    burst,
    deploy,
    live,
    live_edition,
    processes,
    sleep_for,
)
from testinfra.host import Host

pytest_plugins = ["deploys"]


@pytest.fixture(scope="module", autouse=True)
def release(dags: Path) -> None:
    """Deploy the DAGs of the tests."""
    ended = deploy()
    assert ended.returncode == 0, ended.stdout


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
    words = "still finishes its tasks: waits for 1 task(s): sleeper.sleep"

    def waits() -> bool:
        ended = host.run(f"LVAO_WAY_BACK=true {release}/libexec/apply scheduler")
        assert ended.rc == os.EX_TEMPFAIL
        return words in ended.stderr

    # What finishes them has to come up first.
    wait_for(waits, 60, "it to say what it waits for")
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
            host.check_output("timeout 60 systemctl start postgresql && timeout 60 systemctl restart caddy-private")

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
    # A task, whose user is another, cannot stop what keeps the heartbeat.
    stays = unit_property(host, unit, "ControlPID")
    assert host.check_output(f"ps --no-headers -o user:32 -p {stays}") == "lvao-airflow-probe"
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


def test_a_scheduler_that_is_killed_loses_what_it_ran_alone(host: Host, airflow: Airflow) -> None:
    with burst(airflow, 16, 15, lost=9):
        host.check_output(f"sleep 5; systemctl kill --signal=KILL {SCHEDULER}")


def test_tasks_outlive_an_execution_api_that_is_away(host: Host, airflow: Airflow) -> None:
    """Some run when it goes, some start while it is away; nobody holds what they ask."""
    with burst(airflow, 12, 5):
        host.check_output("sleep 5; systemctl stop caddy-private; sleep 60; systemctl start caddy-private")


def test_a_stop_lets_tasks_finish_within_its_bound(host: Host, airflow: Airflow) -> None:
    short_run = sleep_for(airflow, 10)
    host.check_output(f"systemctl restart {SCHEDULER}")
    assert_first_try(airflow, short_run, live_edition(host))
    long_run = sleep_for(airflow, 600)
    host.check_output(f"systemctl restart {SCHEDULER}")
    assert_lost(host, airflow, long_run)


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


def test_a_reboot_lets_tasks_finish_and_brings_all_back(host: Host, airflow: Airflow) -> None:
    run_id = sleep_for(airflow, 10)
    subprocess.run(["docker", "restart", "--time=120", HOST], check=True, capture_output=True)
    wait_for(lambda: airflow.health() == HEALTHY, 120, "health after the reboot")
    assert_first_try(airflow, run_id, live_edition(host))
    other = airflow.trigger("sleeper")
    assert airflow.finish("sleeper", other) == "success"
