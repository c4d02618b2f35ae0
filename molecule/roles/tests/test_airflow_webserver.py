"""Airflow's UI and API, and the Execution API that its tasks report to."""

import json
import time
import uuid
from typing import Any

import pytest
from conftest import (
    Airflow,
    assert_that_it_is_sandboxed,
    assert_that_it_keeps_running,
    journal,
    run_with_airflow,
    signed_like,
    unit_property,
    value,
    wait_for,
)
from testinfra.host import Host

UNIT, OF_TASKS = "lvao-airflow-webserver", "lvao-airflow-execution-api"
BOTH = pytest.mark.parametrize("unit", [UNIT, OF_TASKS])


@BOTH
def test_it_keeps_running(host: Host, unit: str) -> None:
    assert_that_it_keeps_running(host, unit)


@BOTH
def test_it_is_closed_to_what_it_does_not_need(host: Host, unit: str) -> None:
    assert_that_it_is_sandboxed(host, unit)
    assert unit_property(host, unit, "MemoryDenyWriteExecute") == "yes"
    assert f"/var/lib/{unit}" in unit_property(host, unit, "NoExecPaths").split()
    assert unit_property(host, unit, "MemoryMax") != "infinity"
    # How people log in.
    assert ("/webserver.env" in unit_property(host, unit, "EnvironmentFiles")) is (unit == UNIT)


@BOTH
def test_a_closed_gate_beside_one_that_runs_is_opened(host: Host, unit: str) -> None:
    gate = f"/run/lvao-airflow/{unit}/gate"
    host.check_output(f"rm {gate} && systemctl start lvao-airflow-watchdog")
    assert host.file(gate).exists
    assert f"{unit} runs, and its gate was closed: opened it." in journal(host, "lvao-airflow-watchdog")


def test_it_answers_and_knows_its_database(airflow: Airflow) -> None:
    assert airflow.health()["metadatabase"] == "healthy"


def test_the_admin_logs_in_and_nobody_with_a_wrong_password(airflow: Airflow) -> None:
    assert airflow.login(airflow.password)[0] == 201
    assert airflow.login("wrong") == (401, "")


def test_a_stranger_learns_nothing(airflow: Airflow) -> None:
    forged = airflow.login(airflow.password)[1].rpartition(".")[0] + ".forged"
    for path in ("/dags", "/connections", "/variables", "/config"):
        assert airflow.call("GET", path, token=forged)[0] in {401, 403}


@pytest.fixture(scope="module")
def secret(host: Host) -> str:
    """What Airflow signs tokens with."""
    return value(host, "airflow_jwt_secret")


AS_A_TASK = {"aud": "urn:airflow.apache.org:task", "sub": str(uuid.uuid4())}


@pytest.mark.parametrize(
    ("path", "claims", "accepted"),
    [("/api/v2/dags", {}, 200), ("/execution/connections/none", AS_A_TASK, 404)],
    ids=["of a person", "of a task"],
)
def test_a_forged_or_expired_token_is_refused(
    airflow: Airflow, secret: str, path: str, claims: dict[str, str], accepted: int
) -> None:
    token = airflow.login(airflow.password)[1]

    def ask(token: str) -> tuple[int, Any]:
        return airflow.call("GET", path, token=token, root="")

    assert ask(signed_like(token, secret, **claims))[0] == accepted
    for refused in (
        signed_like(token, "x" * len(secret), **claims),
        signed_like(token, secret, **claims, exp=time.time() - 60),
        signed_like(token, secret, **claims | {"aud": "another"}),
        signed_like(token, secret, **claims).rpartition(".")[0] + ".",
    ):
        status, answer = ask(refused)
        assert status in {401, 403}
        assert "Traceback" not in json.dumps(answer)


def test_the_configuration_is_shown_to_nobody(airflow: Airflow) -> None:
    assert airflow.call("GET", "/config")[0] == 403


def test_it_listens_behind_the_proxy_alone(host: Host) -> None:
    assert host.check_output("ss -ltnH 'sport = 8081'").split()[3] == "127.0.0.1:8081"


def test_tasks_report_to_a_process_of_their_own(host: Host, airflow: Airflow) -> None:
    process = unit_property(host, OF_TASKS, "MainPID")
    host.check_output(f"kill -KILL {unit_property(host, UNIT, 'MainPID')}")
    assert airflow.call("GET", "/health", root="/execution") == (200, {"status": "healthy"})
    wait_for(lambda: airflow.health().get("metadatabase") == "healthy", 60, "the webserver to answer")
    assert unit_property(host, OF_TASKS, "MainPID") == process


def test_of_a_large_log_it_shows_the_end(host: Host, airflow: Airflow) -> None:
    run_id = airflow.trigger("log_canary", {"token": "sesame"})
    assert airflow.finish("log_canary", run_id) == "success", journal(host, "lvao-airflow-scheduler")
    wait_for(lambda: "sesame" in airflow.log("log_canary", run_id, "write_token"), 30, "the log in the bucket")
    bucket = value(host, "airflow_logging_bucket_url")
    url = f"{bucket}/dag_id=log_canary/run_id={run_id}/task_id=write_token/attempt=1.log"
    hook = "from airflow.providers.amazon.aws.hooks.s3 import S3Hook; hook = S3Hook('s3logs')"
    content = "(100 * 'x' + chr(10)) * 210_000 + 'the end'"
    run_with_airflow(host, hook, f"hook.load_string({content}, {url!r}, replace=True)")
    process = unit_property(host, UNIT, "MainPID")
    shown = airflow.log("log_canary", run_id, "write_token")
    assert f"This log has 20 MB. Shown are the last 4.0 MB. The whole log: {url}" in shown
    assert "the end" in shown
    assert unit_property(host, UNIT, "MainPID") == process


def test_it_opens_its_gate_once_it_answers_and_shuts_it_before_it_stops(host: Host, airflow: Airflow) -> None:
    gate = host.file(f"/run/lvao-airflow/{UNIT}/gate")
    assert gate.exists
    host.check_output(f"systemctl restart --no-block {UNIT}")
    wait_for(lambda: not gate.exists, 10, "the gate to shut")
    wait_for(lambda: gate.exists, 120, "the gate to open")
    assert (
        host.check_output("curl --silent --write-out '%{http_code}' --output /dev/null http://127.0.0.1:8081/") == "200"
    )
    assert airflow.health()["metadatabase"] == "healthy"


def test_it_comes_back_after_a_crash(host: Host, airflow: Airflow) -> None:
    before = unit_property(host, UNIT, "MainPID")
    host.check_output(f"kill -KILL {before}")
    wait_for(lambda: unit_property(host, UNIT, "MainPID") not in {"0", before}, 15, "it to come back")
    wait_for(lambda: airflow.health().get("metadatabase") == "healthy", 60, "it to answer")
