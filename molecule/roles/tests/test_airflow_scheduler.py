"""Airflow's scheduler, which runs the tasks, its DAG processor and its triggerer."""

import shlex

import pytest
from conftest import HEALTHY, Airflow, assert_that_it_keeps_running, journal, unit_property, wait_for
from testinfra.host import Host

UNIT = "lvao-airflow-scheduler"


@pytest.mark.parametrize("name", ["scheduler", "dag-processor", "triggerer", "log-server"])
def test_they_keep_running(host: Host, name: str) -> None:
    assert_that_it_keeps_running(host, f"lvao-airflow-{name}")


def test_every_component_is_healthy(airflow: Airflow) -> None:
    wait_for(lambda: airflow.health() == HEALTHY, 60, "health")


def test_a_task_runs(host: Host, airflow: Airflow) -> None:
    run_id = airflow.trigger("log_canary", {"token": "sesame"})
    assert airflow.finish("log_canary", run_id) == "success", journal(host, UNIT)
    assert "sesame" in airflow.log("log_canary", run_id, "write_token")


# What each unit gets of the secrets: the database, the fernet key, the bucket, the sessions, the tokens, what DAGs use.
SECRETS = {
    "scheduler": "database fernet bucket tokens dags",
    "dag-processor": "database fernet bucket dags",
    "triggerer": "database fernet bucket sessions dags",
    "log-server": "sessions",
    "webserver": "database fernet bucket sessions tokens",
    "execution-api": "database fernet tokens",
}
PORTS = {"webserver": 8081, "execution-api": 8082, "log-server": 8793, "triggerer": 8794}
NAMES = {
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "database",
    "AIRFLOW__CORE__FERNET_KEY": "fernet",
    "AIRFLOW_CONN_S3LOGS": "bucket",
    "AIRFLOW__API__SECRET_KEY": "sessions",
}


@pytest.mark.parametrize("name", SECRETS)
def test_each_unit_has_a_user_and_the_secrets_that_it_needs(host: Host, name: str) -> None:
    unit = f"lvao-airflow-{name}"
    assert unit_property(host, unit, "User") == ("airflow" if name == "scheduler" else unit)
    # No other one takes its place on its port, where the kernel has control groups of version 2.
    # systemd shows a rule as tcp8081.
    denied, allowed = (unit_property(host, unit, f"SocketBind{verb}").split() for verb in ("Deny", "Allow"))
    assert {*denied} == {f"tcp{port}" for port in (8080, 8443, *PORTS.values(), 5432, 8090)}
    assert allowed == ([f"tcp{PORTS[name]}"] if name in PORTS else [])
    fragments, unset = unit_property(host, unit, "EnvironmentFiles"), unit_property(host, unit, "UnsetEnvironment")
    found = {secret for variable, secret in NAMES.items() if variable not in unset.split()}
    # A release from before lacks that folder: its scheduler would end without its ExecStop=.
    assert name != "scheduler" or "/dags.d/*.env (ignore_errors=yes)" in fragments
    found |= {secret for file, secret in {"/api-auth.env": "tokens", "/dags.d/": "dags"}.items() if file in fragments}
    assert found == set(SECRETS[name].split())


def test_it_starts_once_the_execution_api_answers(host: Host, airflow: Airflow) -> None:
    # The webserver stands in for the other.
    serve = "lvao-airflow-execution-api lvao-airflow-webserver"
    host.check_output(f"systemctl stop {serve}")
    host.check_output(f"systemctl restart --no-block {UNIT}")
    wait_for(lambda: unit_property(host, UNIT, "SubState") == "start-pre", 60, "it to wait")
    host.check_output(f"systemctl start {serve}")
    wait_for(lambda: host.service(UNIT).is_running, 60, "it to start")
    run_id = airflow.trigger("log_canary")
    assert airflow.finish("log_canary", run_id) == "success", journal(host, UNIT)


def test_one_that_misses_its_signal_does_not_hold_up_a_deploy(host: Host) -> None:
    unit, drop_in = "lvao-airflow-dag-processor", "/run/systemd/system/lvao-airflow-dag-processor.service.d"
    before = unit_property(host, unit, "MainPID")
    # A signal that it ignores: Python drops the right one now and then, amid a fork.
    host.check_output(f"mkdir {drop_in} && printf '[Service]\nKillSignal=SIGURG\n' > {drop_in}/deaf.conf")
    ended = host.run(f"systemctl daemon-reload && timeout 120 systemctl restart {unit}")
    host.check_output(f"rm --recursive {drop_in} && systemctl daemon-reload")
    assert ended.rc == 0
    assert unit_property(host, unit, "MainPID") not in {"0", before}


# Its start date varies, and it cannot be serialized: Airflow's own DAG processor ends for it, each time it starts.
ODD = """import pendulum
from airflow.sdk import DAG
from airflow.timetables.simple import NullTimetable


class Odd(NullTimetable):
    pass


with DAG("odd", schedule=Odd(), start_date=pendulum.now()):
    pass
"""
LATER = "from airflow.sdk import DAG\n\nwith DAG('later', schedule=None):\n    pass\n"


def test_a_dag_that_the_database_does_not_take_is_shown_and_keeps_no_other_out(host: Host) -> None:
    unit, dags = "lvao-airflow-dag-processor", "/opt/airflow/current/dags"
    before = unit_property(host, unit, "MainPID")
    for name, source in (("odd", ODD), ("later", LATER)):
        host.check_output(f"printf %s {shlex.quote(source)} > {dags}/{name}.py")
    try:
        # It ends with 1 where there are some.
        wait_for(lambda: "odd.py" in host.run("airflow dags list-import-errors -o json").stdout, 120, "its error")
        wait_for(lambda: '"later"' in host.run("airflow dags list -o json").stdout, 60, "the other DAG")
        shown = host.check_output("python3 -I /opt/airflow/current/libexec/show_dags.py")
    finally:
        host.check_output(f"rm {dags}/odd.py {dags}/later.py")
    assert "later" in shown
    assert "dags/odd.py: airflow.exceptions.SerializationError: Failed to serialize DAG 'odd'" in shown
    assert unit_property(host, unit, "MainPID") == before
