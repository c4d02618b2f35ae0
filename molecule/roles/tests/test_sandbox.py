"""What tasks may do, and what they may not."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from conftest import Airflow, assert_that_it_is_sandboxed, journal, unit_property, wait_for
from testinfra.host import Host

UNIT = "lvao-airflow-scheduler"
COMPONENTS = ["scheduler", "dag-processor", "triggerer", "log-server"]

FORBIDDEN = {
    "read the environment of all processes": "EACCES",
    "read a fragment of the environment": "EACCES",
    "write a DAG": "EROFS",
    "write a package": "EROFS",
    "write a plugin": "EROFS",
    "write the configuration": "EACCES",
    "write to another unit's directory": "EACCES",
    "shut the webserver's gate": "EROFS",
    "read what another unit keeps": "EACCES",
    "read what another unit is told": "EACCES",
    "signal another unit, or what root asks": "EPERM",
    "write what root notes of its unit": "EROFS",
    "write where everybody may": "EROFS",
    "read another user's file": "EACCES",
    "read what another user shows": "EACCES",
    "read what root shows": "EACCES",
    "read what another unit left in /tmp": "ENOENT",
    "read what another unit left in /var/tmp": "ENOENT",
    "open a raw socket": "EPERM",
    "open a packet socket": "EAFNOSUPPORT",
    "reach Scaleway's metadata": "EPERM",
    "reach the metadata of other clouds": "EPERM",
    "become root": "EPERM",
    "become root by sudo": "no new privileges",
    "make a setuid program": "EPERM",
    "make a user namespace": "EPERM",
    "have the kernel read and write for it by io_uring": "EPERM",
    "mount": "EPERM",
    "trace a process": "EPERM",
    "read the memory of the host": "ENOENT",
    "read the log of the kernel": "ENOENT",
    "tune the kernel": "EACCES",
    "dump core": "not allowed to raise maximum limit",
}
ORDINARY = [
    "run a shell, with limits and priorities",
    "pin itself to a processor",
    "write a temporary file",
    "run a temporary program",
    "keep temporary files on disk",
    "write to its state",
    "write to its home directory",
    "write to a folder that it has for work",
    "write where the site lets it",
    "share memory",
    "share a lock with other processes",
    "compile at run time",
    "ask for the host's memory",
    "find a host by name",
    "call a service",
    "make a client of an object store",
]


@pytest.fixture(scope="module", autouse=True)
def _dags(host: Host) -> Iterator[None]:
    """Save the DAGs on the host, and what their tasks look for."""
    source = Path(__file__).with_name("sandbox.py").read_text()
    host.check_output(f"printf %s {shlex.quote(source)} > /opt/airflow/current/dags/sandbox.py")
    host.check_output("mkdir -p /home/lvao-test && chmod 755 /root")
    host.check_output("echo x | tee /home/lvao-test/shown /root/shown /tmp/lvao-test /var/tmp/lvao-test")
    host.check_output("install --mode=0600 /dev/null /srv/lvao-test/secret")
    yield
    host.check_output(
        "rm -r /opt/airflow/current/dags/sandbox.py /home/lvao-test /root/shown /tmp/lvao-test /var/tmp/lvao-test"
    )
    host.check_output("chmod 700 /root")


@pytest.fixture(scope="module")
def careless(airflow: Airflow) -> dict[str, dict[str, Any]]:
    """The tasks of the DAG that logs its environment, and crashes; each with its log."""
    run_id = airflow.trigger("careless")
    airflow.finish("careless", run_id)
    path = f"/dags/careless/dagRuns/{run_id}/taskInstances"
    tasks = {task["task_id"]: task for task in airflow.call("GET", path)[1]["task_instances"]}
    for task_id, task in tasks.items():
        lines = airflow.call("GET", f"{path}/{task_id}/logs/1")[1]["content"]
        task["log"] = "\n".join(str(line.get("event", line)) for line in lines)
    return tasks


@pytest.fixture(scope="module")
def tried(host: Host, airflow: Airflow) -> dict[str, Any]:
    """What became of all that a task tried."""
    probe = "LVAO_PROBE=true LVAO_PROGRAM=python LVAO_UNIT=lvao-test-probe airflow -c 'import time; time.sleep(600)'"
    host.check_output(f"setsid env {probe} >/dev/null 2>&1 &")
    run_id = airflow.trigger("sandbox")
    ended = airflow.finish("sandbox", run_id)
    host.check_output("systemctl stop lvao-test-probe")
    assert ended == "success", airflow.log("sandbox", run_id, "try") + journal(host, UNIT)
    return airflow.call("GET", f"/dags/sandbox/dagRuns/{run_id}/taskInstances/try/xcomEntries/return_value")[1]["value"]


@pytest.mark.parametrize("name", COMPONENTS)
def test_it_is_closed_to_what_it_does_not_need(host: Host, name: str) -> None:
    assert_that_it_is_sandboxed(host, f"lvao-airflow-{name}")


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_task_may_not(tried: dict[str, Any], what: str) -> None:
    assert FORBIDDEN[what] in tried["forbidden"][what]


def test_the_tables_here_have_all_that_was_tried(tried: dict[str, Any]) -> None:
    assert tried["forbidden"].keys() == FORBIDDEN.keys()
    assert tried["ordinary"].keys() == set(ORDINARY)


@pytest.mark.parametrize("what", ORDINARY)
def test_a_task_may(tried: dict[str, Any], what: str) -> None:
    assert tried["ordinary"][what] == "done"


def test_what_a_task_leaves_at_home_keeps_nothing_from_the_database_and_the_logs(host: Host) -> None:
    home, user = "/var/lib/lvao-airflow-command", "lvao-airflow-command"
    planted = f"{home}/.postgresql/root.crt {home}/.aws/config"
    host.check_output(f"for file in {planted}; do mkdir $(dirname $file) && echo x > $file; done")
    host.check_output(f"chown -R {user}: {home}/.postgresql {home}/.aws")
    try:
        host.check_output("airflow db check")
        host.check_output('LVAO_PROGRAM=python airflow -c \'import boto3; boto3.client("s3", region_name="x")\'')
    finally:
        host.check_output(f"rm -r {home}/.postgresql {home}/.aws")


def test_a_task_that_shows_the_environment_of_each_process_shows_no_secret(
    host: Host, careless: dict[str, dict[str, Any]]
) -> None:
    fragments = host.check_output(
        "cat /opt/airflow/secrets/current/api-auth.env /opt/airflow/secrets/current/env.d/*.env"
    )
    secrets = {
        name: re.sub(r"\\(.)", r"\1", value) for name, value in re.findall(r'^(\w+)="(.*)"$', fragments, re.MULTILINE)
    }
    secrets["the key of the bucket"] = json.loads(secrets.pop("AIRFLOW_CONN_S3LOGS"))["password"]
    address = urlsplit(secrets.pop("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"))
    secrets["the password of the database"] = unquote(address.password)
    # The longest part of its address may be a name, and its password is the same.
    del secrets["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"]
    log = careless["show"]["log"]
    assert careless["show"]["state"] == "success"
    assert "AIRFLOW_CONN_S3LOGS=" in log
    written = host.check_output(f"journalctl --no-pager --output=cat --since=-15min --unit='{UNIT}*'")
    assert "AIRFLOW_CONN_S3LOGS=" in written
    # What no spelling changes of each.
    kept = {name: max(re.findall(r"[\w.-]+", secret, re.ASCII), key=len) for name, secret in secrets.items()}
    assert len(kept) >= 5
    assert [name for name, part in kept.items() if part in log or part in written] == []


def test_a_task_that_crashes_ends_at_once_and_says_where(careless: dict[str, dict[str, Any]]) -> None:
    task = careless["crash"]
    assert task["state"] == "failed"
    assert task["duration"] < 30
    assert "Segmentation fault" in task["log"]
    assert re.search(r'sandbox\.py", line \d+ in crash', task["log"])


def test_what_a_task_may_write_to_is_named(host: Host, tried: dict[str, Any]) -> None:
    of_airflow = "/var/lib/airflow/logs /var/lib/airflow/state"
    of_all, of_the_site = "/dev/mqueue /dev/shm", "/srv/lvao-test /srv/lvao-work /var/lib/lvao/shown"
    assert tried["writable"] == sorted(f"{of_airflow} /tmp /var/tmp {of_all} {of_the_site}".split())


@pytest.mark.parametrize("name", COMPONENTS)
def test_what_it_may_use_up_is_derived_from_the_host(host: Host, name: str) -> None:
    total = int(host.check_output("awk '/^MemTotal/ {print $2}' /proc/meminfo")) // 1024
    parallelism = max(4, min(32, total // 512))
    unit = f"lvao-airflow-{name}"
    bounded = "lvao-airflow-scheduler.slice" if name == "scheduler" else unit
    memory = max(1024, total // 256 * (150 if name == "scheduler" else 64))
    assert unit_property(host, bounded, "MemoryMax") == str(memory * 2**20)
    assert unit_property(host, unit, "TasksMax") == str(256 + 128 * parallelism)
    assert unit_property(host, unit, "LimitCORE") == "0"
    assert unit_property(host, unit, "OOMPolicy") == "continue"
    # The inventory's airflow_unit_overrides have another number than the role.
    assert unit_property(host, unit, "LimitNOFILE") == "2048"


def test_both_schedulers_share_their_memory(host: Host) -> None:
    for name in ("a", "b"):
        assert unit_property(host, f"{UNIT}-{name}", "Slice") == f"{UNIT}.slice"


def test_a_task_that_eats_the_memory_fails_alone(host: Host, airflow: Airflow) -> None:
    wait_for(lambda: airflow.health()["scheduler"] == "healthy", 30, "health")
    before = unit_property(host, UNIT, "MainPID")
    whole = unit_property(host, f"{UNIT}.slice", "MemoryMax")
    # A large memory takes long to fill.
    less = int(unit_property(host, f"{UNIT}.slice", "MemoryCurrent")) + 600 * 2**20
    host.check_output(f"systemctl set-property --runtime {UNIT}.slice MemoryMax={less}")
    other = airflow.trigger("sandbox")
    run_id = airflow.trigger("glutton")
    ended = airflow.finish("glutton", run_id), airflow.finish("sandbox", other)
    host.check_output(f"systemctl set-property --runtime {UNIT}.slice MemoryMax={whole}")
    assert ended == ("failed", "success"), airflow.log("glutton", run_id, "eat")
    assert "SIGKILL" in airflow.log("glutton", run_id, "eat")
    assert unit_property(host, UNIT, "MainPID") == before
    assert unit_property(host, UNIT, "Result") == "success"
    run_id = airflow.trigger("log_canary")
    assert airflow.finish("log_canary", run_id) == "success", journal(host, UNIT)
