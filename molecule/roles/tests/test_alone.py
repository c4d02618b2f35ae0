"""Roles that others have gone before in a converge need nothing of what those leave behind in a run of Ansible."""

import re

import pytest
from conftest import apply_role
from testinfra.host import Host


# Tests of their own apply `airflow_database`, `baseline` and `reverse_proxy` alone.
@pytest.mark.parametrize("role", ["airflow_logging", "airflow_webserver", "airflow_scheduler"])
def test_a_role_alone_finds_nothing_to_change(host: Host, role: str) -> None:
    ended = apply_role(host, role)
    assert ended.returncode == 0, ended.stdout
    assert set(re.findall(r"changed=(\d+)", ended.stdout)) == {"0"}, ended.stdout
