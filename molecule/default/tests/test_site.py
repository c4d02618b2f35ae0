"""What a deployed site promises, on a host that systemd runs."""

import base64
import json
import os
import re
import secrets
import shlex
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import (
    EMULATED,
    ENVIRONMENT,
    HEALTHY,
    PROJECT,
    SECRETS,
    Airflow,
    address,
    apply_role,
    assert_that_it_keeps_running,
    journal,
    reboot,
    run_playbook,
    run_with_airflow,
    said,
    sleeping_task,
    steady_requests,
    unit_property,
    wait_for,
)
from testinfra.host import Host

HOSTS = os.environ["LVAO_HOSTS"]
UNITS = [f"lvao-airflow-{name}" for name in ("webserver", "execution-api", "dag-processor", "triggerer", "scheduler")]
TRIGGERER = "lvao-airflow-triggerer"
CHANGED = "find /etc/airflow/ /opt/airflow -maxdepth 3 -newer /root/began"
BUCKET = f"lvao-{ENVIRONMENT}-airflow"


def read_object(host: Host, key: str) -> str:
    """Read an object with Airflow's connection, as Airflow's own log reader does."""
    hook = "from airflow.providers.amazon.aws.hooks.s3 import S3Hook; hook = S3Hook('s3logs')"
    found = f"hook.read_key({key!r}, {BUCKET!r}) if hook.check_for_key({key!r}, {BUCKET!r}) else ''"
    return run_with_airflow(host, hook, found)


def prove_that_tasks_run(host: Host, airflow: Airflow) -> None:
    """Run the canary, and find its token in the bucket and in Airflow's log page."""
    token = secrets.token_hex(8)
    run_id = airflow.trigger("log_canary", {"token": token})
    assert airflow.finish("log_canary", run_id) == "success", journal(host, "lvao-airflow-scheduler")
    key = f"dag_id=log_canary/run_id={run_id}/task_id=write_token/attempt=1.log"
    # Airflow uploads a log just after the task has ended.
    wait_for(lambda: token in read_object(host, key), 30, "the log in the bucket")
    shown = airflow.log("log_canary", run_id, "write_token")
    assert token in shown
    assert f"s3://{BUCKET}/{key}" in shown


@pytest.mark.parametrize("unit", UNITS)
def test_units_run_now_and_at_boot_and_after_a_failure(host: Host, unit: str) -> None:
    assert_that_it_keeps_running(host, unit)


def test_a_killed_component_comes_back(host: Host) -> None:
    unit = TRIGGERER
    before = unit_property(host, unit, "MainPID")
    host.check_output(f"kill -KILL {before}")
    wait_for(lambda: unit_property(host, unit, "MainPID") not in {"0", before}, 15, f"{unit} to come back")


def test_every_component_is_healthy(host: Host, airflow: Airflow) -> None:
    wait_for(lambda: airflow.health() == HEALTHY, 60, f"health; the last was {airflow.health()}")
    assert not host.run("systemctl --failed --no-legend --plain").stdout


def test_what_is_internal_listens_on_loopback_alone(host: Host) -> None:
    listening = host.check_output("ss --listening --tcp --numeric --no-header").splitlines()
    addresses = {line.split()[3] for line in listening}
    assert "0.0.0.0:8080" in addresses  # development publishes it
    # Airflow's log servers cannot be told where to listen.
    open_to_all = {address.rpartition(":")[2] for address in addresses if not address.startswith(("127.", "[::1]"))}
    assert open_to_all - {"8793", "8794"} == {"22", "80", "443", "8080"}
    for port in (5432, 8081, 6200, 6201, 6202, 8090, 11211):
        assert {address for address in addresses if address.endswith(f":{port}")} == {f"127.0.0.1:{port}"}


def test_the_fragments_belong_to_root_alone(host: Host) -> None:
    places = "/etc/airflow/ /opt/airflow/secrets"
    found = host.check_output(f"find {places} -name '*.env' -printf '%m %u %g %p\\n'").splitlines()
    assert found
    assert all(line.startswith("600 root root ") for line in found)
    assert host.run("runuser -u airflow -- cat /etc/airflow/env.d/10-core.env").failed


def test_no_secret_is_readable_by_others_or_in_the_journal(host: Host) -> None:
    values = {path.name: path.read_text().strip() for path in SECRETS.iterdir()}
    values["fernet_key"] = base64.b64encode(values["fernet_key"].encode()).decode()
    spellings = {*values.values(), *(quote(value, safe="") for value in values.values())}
    patterns = "".join(f"-e {shlex.quote(spelling)} " for spelling in spellings)
    assert len(host.check_output(f"grep -rlsF {patterns} /opt/airflow/secrets/current/").splitlines()) == 4
    assert not host.run(f"grep -rlsF {patterns} /opt/airflow/releases").stdout
    places = "/etc /opt/airflow/releases /opt/airflow/secrets /run /srv /tmp /usr/local /var/lib /var/log"
    readable = host.run(f"runuser -u nobody -- grep -rlsF {patterns} {places}").stdout
    assert not readable
    # The commands of tests are sudo's to log where it runs them; Ansible's are looked at in `site`.
    assert host.run(f"journalctl --no-pager | grep -v ' sudo\\[' | grep -F {patterns}").rc == 1
    assert host.run(f"systemctl show 'lvao-*' | grep -F {patterns}").rc == 1


def test_the_api_shows_no_configuration(airflow: Airflow) -> None:
    assert airflow.call("GET", "/config")[0] == 403


def test_the_admin_logs_in_and_nobody_with_a_wrong_password(airflow: Airflow) -> None:
    status, token = airflow.login(airflow.password)
    assert (status, bool(token)) == (201, True)
    assert airflow.login("wrong")[0] == 401


def test_airflow_resolves_the_log_connection(host: Host) -> None:
    connection = json.loads(host.check_output("airflow connections get s3logs --output json"))[0]
    assert connection["conn_type"] == "aws"
    assert "http://127.0.0.1:8090" in json.dumps(connection["extra_dejson"])


def test_the_airflow_command_takes_its_arguments_as_they_are(host: Host) -> None:
    odd = """$HOME %n "quoted" 'single' \\ ;"""
    host.check_output(shlex.join(["airflow", "variables", "set", "odd", odd]))
    assert host.check_output("airflow variables get odd") == odd


def test_a_task_runs_and_its_log_arrives(host: Host, airflow: Airflow) -> None:
    prove_that_tasks_run(host, airflow)


def test_no_request_fails_while_the_webserver_restarts(host: Host, airflow: Airflow) -> None:
    url = f"http://{address(host)}:8080"
    login = {"username": "admin", "password": airflow.password}
    # A login costs the webserver more than it has on a slow machine, if all those held come at once.
    asked = [("GET", f"{url}/api/v2/version", None)] * 19 + [("POST", f"{url}/auth/token", login)]
    with steady_requests(asked, per_second=1 if EMULATED else 20) as answers:
        time.sleep(2)
        host.check_output("systemctl restart lvao-airflow-webserver")
        time.sleep(2)
    assert {(answer.method, answer.status) for answer in answers} == {("GET", 200), ("POST", 201)}
    assert len(answers) > 100


def test_a_release_says_what_it_is(host: Host) -> None:
    release = json.loads(host.file("/opt/airflow/current/release.json").content_string)
    assert host.check_output("readlink /opt/airflow/current") == f"/opt/airflow/releases/{release['id']}"
    assert set(release["schema_heads"]) == {"alembic_version", "alembic_version_fab"}
    assert not host.file("/opt/airflow/current/dags/tests").exists


def test_the_next_deploy_makes_good_what_a_failed_one_left(host: Host, airflow: Airflow) -> None:
    def set_revision(revision: str) -> None:
        statement = "UPDATE alembic_version SET version_num = :'revision'"
        host.check_output(f'echo "{statement}" | runuser -u postgres -- psql {BUCKET} -v revision={revision}')

    def deploy() -> subprocess.CompletedProcess[str]:
        values = json.dumps({"airflow_env_host": {"LVAO_TEST": "reached"}})
        return run_playbook("deploy", HOSTS, "--extra-vars", values)

    # What starts now would not start with an unknown schema.
    wait_for(lambda: airflow.health() == HEALTHY, 60, "health")
    pids = [unit_property(host, unit, "MainPID") for unit in UNITS]
    release = json.loads(host.file("/opt/airflow/current/release.json").content_string)
    head = release["schema_heads"]["alembic_version"]
    set_revision("unknown")
    try:
        failed = deploy()
    finally:
        set_revision(head)
    assert failed.returncode != 0
    # One that is down must not hide that the others are outdated.
    host.check_output(f"systemctl stop {TRIGGERER}")
    assert "the database is at revision unknown (alembic_version), which this release does not know" in " ".join(
        failed.stdout.split()
    )
    assert {*pids} - {unit_property(host, unit, "MainPID") for unit in UNITS} == {pids[UNITS.index(TRIGGERER)]}
    mended = deploy()
    assert mended.returncode == 0, mended.stdout
    assert not {*pids} & {unit_property(host, unit, "MainPID") for unit in UNITS}
    wait_for(lambda: airflow.health() == HEALTHY, 60, "health")


@pytest.mark.anywhere
def test_check_mode_says_which_release_would_go_live_again(host: Host) -> None:
    """It is that of the inventory's values, which is kept beside the one of the test before."""
    release = host.check_output("realpath /opt/airflow/previous")
    ended = run_playbook("deploy", HOSTS, "--check")
    assert ended.returncode == 0, ended.stdout
    assert f"{release} would go live." in said(ended)


def test_a_saved_dag_shows_up_and_a_restart_lets_its_task_finish(host: Host, airflow: Airflow) -> None:
    with sleeping_task(host, airflow) as path:
        started = time.monotonic()
        host.check_output("systemctl restart lvao-airflow-scheduler")
        assert time.monotonic() - started > 5
        task = airflow.call("GET", path)[1]
    assert (task["state"], task["try_number"]) == ("success", 1)


@pytest.mark.anywhere
def test_check_mode_says_what_a_new_lock_would_change(host: Host, tmp_path: Path) -> None:
    lock = tmp_path / "airflow.txt"
    lock.write_text((PROJECT / "requirements/airflow.txt").read_text() + "# changed\n")
    host.check_output("touch /root/began")
    values = json.dumps({"airflow_requirements": str(lock)})
    ended = run_playbook("site", HOSTS, "--check", "--tags", "airflow", "--extra-vars", values)
    assert ended.returncode == 0, ended.stdout
    assert "The locked packages have changed. /opt/airflow/venvs/" in said(ended)
    assert "/opt/airflow/releases/" in said(ended)
    assert not host.check_output(CHANGED)


READER = "/etc/swift/proxy-server.conf"
BUCKET_CHECK, DATABASE_CHECK = ("airflow_logging", "bucket"), ("airflow_database", "connection")
WRONG_KEY = "airflow_logging_access_key, airflow_logging_secret_key or airflow_logging_region is wrong"
BAD_SERVICES = {
    "unknown access key": (BUCKET_CHECK, {"airflow_logging_access_key": "lvao:nobody"}, WRONG_KEY),
    "no right to write": (
        BUCKET_CHECK,
        {"airflow_logging_access_key": "lvao:reader", "airflow_logging_secret_key": "reader-of-nothing"},
        "it must be allowed to write, list, read and delete",
    ),
    "no such bucket": (
        BUCKET_CHECK,
        {"airflow_logging_bucket_url": "s3://lvao-no-such-bucket", "airflow_logging_bucket_create": False},
        "airflow_logging_bucket_url names no bucket",
    ),
    "no storage there": (
        BUCKET_CHECK,
        {"airflow_logging_endpoint_url": "http://127.0.0.1:9"},
        "look at airflow_logging_endpoint_url",
    ),
    "no database there": (DATABASE_CHECK, {"airflow_database_port": 9}, "Look at airflow_database_host, _port"),
}


@pytest.fixture(scope="module")
def reader(host: Host) -> None:
    """Give the storage a user that may not write."""
    host.check_output(f"sed -i.kept '/^user_lvao_airflow/a user_lvao_reader = reader-of-nothing' {READER}")
    host.check_output("systemctl restart swift-proxy")
    wait_for(lambda: host.run("curl --fail http://127.0.0.1:8090/healthcheck").succeeded, 30, "the storage")
    yield
    host.check_output(f"mv {READER}.kept {READER} && systemctl restart swift-proxy")


@pytest.mark.anywhere
@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("case", BAD_SERVICES)
def test_a_service_that_refuses_us_is_named(host: Host, case: str) -> None:
    (role, check), values, message = BAD_SERVICES[case]
    ended = apply_role(host, role, entry_point=check, **values)
    assert ended.returncode != 0
    assert message in said(ended)


@pytest.mark.anywhere
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"airflow_logging_secret_key": "not-the-secret-key"}, WRONG_KEY),
        ({"airflow_database_password": "not-the-password"}, "password authentication failed"),
    ],
    ids=["bucket", "database"],
)
def test_a_service_that_refuses_us_stops_the_deploy_before_anything_changes(
    host: Host, values: dict[str, str], message: str
) -> None:
    running = [unit_property(host, unit, "MainPID") for unit in UNITS]
    host.check_output("touch /root/began")
    ended = run_playbook("deploy", HOSTS, "--extra-vars", json.dumps(values))
    assert ended.returncode != 0
    assert message in said(ended)
    assert "not-the-" not in ended.stdout
    assert not host.check_output(CHANGED)
    assert running == [unit_property(host, unit, "MainPID") for unit in UNITS]


def test_an_override_that_systemd_cannot_read_is_refused_before_anything_changes(host: Host) -> None:
    look = "ls -l /opt/airflow/current /opt/airflow/releases /etc/systemd/system"
    before = host.check_output(look)
    values = json.dumps({"airflow_unit_overrides": {"MemoryMax": "lots", "MemoryMaximum": "1G"}})
    ended = run_playbook("deploy", HOSTS, "--extra-vars", values)
    assert ended.returncode != 0
    for complaint in ("Invalid memory limit 'lots'", "Unknown key (name )?'MemoryMaximum'"):
        assert re.search(rf"lvao-airflow-webserver.service:\d+: {complaint}", ended.stdout)
    assert host.check_output(look) == before


def test_everything_works_after_a_reboot(host: Host, airflow: Airflow) -> None:
    reboot(host)
    wait_for(lambda: airflow.health() == HEALTHY, 120, "health after the reboot")
    # Its scheduler counts as started after a round of its loop.
    wait_for(lambda: all(host.service(unit).is_running for unit in UNITS), 60, "the units after the reboot")
    prove_that_tasks_run(host, airflow)
