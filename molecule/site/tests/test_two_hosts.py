"""Deploys to two hosts, which run one release or the other, together."""

import itertools
import json
import subprocess

import pytest
import testinfra
from conftest import HEALTHY, INVENTORY, PROJECT, Airflow, run_playbook, said, wait_for
from testinfra.host import Host

# Those that run Airflow.
NAMES = ("scheduler", "webserver")


@pytest.fixture(scope="module")
def hosts() -> dict[str, Host]:
    """Its hosts, by what each does."""
    return {name: testinfra.get_host(f"docker://lvao-molecule-site-{name}") for name in NAMES}


def live(hosts: dict[str, Host]) -> set[str]:
    """Ask each host which release is its current one."""
    return {host.check_output("basename $(realpath /opt/airflow/current)") for host in hosts.values()}


def changed(text: str, **values: object) -> list[str]:
    """Make the arguments of a deploy with another configuration."""
    return ["--extra-vars", json.dumps({"airflow_env_host": {"LVAO_TEST": text}} | values)]


def test_a_rollback_brings_back_the_release_before_on_every_host(hosts: dict[str, Host], airflow: Airflow) -> None:
    before = live(hosts)
    assert len(before) == 1, "hosts of one environment should run one release"
    ended = run_playbook("deploy", "scheduler:webserver", *changed("good"))
    assert ended.returncode == 0, ended.stdout
    assert len(live(hosts) | before) == 2
    ended = run_playbook("rollback", "scheduler:webserver")
    assert ended.returncode == 0, ended.stdout
    assert live(hosts) == before
    assert airflow.health() == HEALTHY


def test_a_release_whose_tasks_fail_is_taken_back_from_every_host(hosts: dict[str, Host], airflow: Airflow) -> None:
    before = live(hosts)
    # Every task fails at its start, while every component is healthy.
    broken = changed("broken", airflow_unit_overrides={"ProtectProc": "invisible"})
    ended = run_playbook("deploy", "scheduler:webserver", *broken)
    assert ended.returncode != 0
    assert "The DAG log_canary failed: Airflow runs, but its tasks do not." in said(ended)
    assert live(hosts) == before
    wait_for(lambda: airflow.health() == HEALTHY, 60, "health")


def test_a_deploy_that_loses_a_host_is_taken_back_from_every_host(hosts: dict[str, Host], airflow: Airflow) -> None:
    before = live(hosts)
    command = ["ansible-playbook", "-i", INVENTORY, "playbooks/deploy.yml"]
    command += changed("lost", airflow_confirm_timeout="20s")
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as deploy:
        said = "".join(itertools.takewhile(lambda line: "Make the release the current one" not in line, deploy.stdout))
        assert deploy.poll() is None, said
        hosts["webserver"].check_output("systemctl stop ssh.socket ssh.service; pkill sshd; true")
        said += deploy.stdout.read()
    hosts["webserver"].check_output("systemctl start ssh")
    assert deploy.returncode != 0
    assert "UNREACHABLE" in said
    wait_for(lambda: live(hosts) == before, 120, f"the way back; the deploy said {said}")
    wait_for(lambda: airflow.health() == HEALTHY, 90, "health")
