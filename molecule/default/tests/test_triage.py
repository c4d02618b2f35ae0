"""What an intruder has planted is in the list of `make triage`, which changes nothing and shows no secret."""

import os
from collections.abc import Iterator

import pytest
from conftest import ENVIRONMENT, SECRETS, run_playbook, said
from testinfra.host import Host

pytestmark = pytest.mark.anywhere
DATABASE = f"lvao-{ENVIRONMENT}-airflow"
TRIGGERER = "lvao-airflow-triggerer"
KEYS = "/root/.ssh/authorized_keys2"
PLANT = """
INSERT INTO ab_user (id, first_name, last_name, username, email, active) VALUES (666, 'm', 'm', 'mallory', 'm', true);
INSERT INTO ab_user_role (id, user_id, role_id) SELECT 666, 666, id FROM ab_role WHERE name = 'Admin';
INSERT INTO trigger (id, classpath, kwargs, created_date) VALUES (666, 'planted.Trigger', '{}', now());
INSERT INTO dag SELECT (jsonb_populate_record(dag, '{"dag_id": "planted"}')).* FROM dag WHERE dag_id = 'log_canary';
INSERT INTO dag_version SELECT (jsonb_populate_record(dag_version,
  '{"dag_id": "planted", "id": "00000000-0000-0000-0000-000000000666"}')).*
  FROM dag_version WHERE dag_id = 'log_canary' LIMIT 1;
INSERT INTO serialized_dag SELECT (jsonb_populate_record(serialized_dag,
  '{"dag_id": "planted", "id": "00000000-0000-0000-0000-000000000666",
    "dag_version_id": "00000000-0000-0000-0000-000000000666"}')).*
  FROM serialized_dag WHERE dag_id = 'log_canary' LIMIT 1;
"""
REMOVE = """
DELETE FROM dag WHERE dag_id = 'planted';
DELETE FROM trigger WHERE id = 666;
DELETE FROM ab_user_role WHERE user_id = 666;
DELETE FROM ab_user WHERE id = 666;
"""


def query(host: Host, statements: str) -> None:
    """Have the database do several things, or none of them."""
    psql = f"runuser -u postgres -- psql --quiet --single-transaction --set=ON_ERROR_STOP=1 {DATABASE}"
    host.check_output(f"{psql} <<'END'\n{statements}\nEND")


@pytest.fixture
def _planted(host: Host) -> Iterator[None]:
    """Leave what an intruder could have left."""
    # It removes triggers that nobody waits for.
    host.check_output(f"systemctl stop {TRIGGERER}")
    query(host, PLANT)
    host.check_output(f"mkdir --parents /root/.ssh && echo 'ssh-ed25519 AAAAC3NzaC1lZDI1 mallory' > {KEYS}")
    host.check_output("touch /etc/systemd/system/planted.timer")
    yield
    query(host, REMOVE)
    host.check_output(f"rm {KEYS} /etc/systemd/system/planted.timer && systemctl start {TRIGGERER}")


@pytest.mark.usefixtures("_planted")
def test_what_was_planted_is_listed() -> None:
    ended = run_playbook("triage", os.environ["LVAO_HOSTS"])
    assert ended.returncode == 0, ended.stdout
    assert "changed=0" in ended.stdout
    listed = said(ended)
    assert "mallory: Admin; active, created at no known time" in listed
    assert "admin: Admin; active" in listed
    assert "planted.Trigger: 1, of which nothing waits for 1" in listed
    assert "planted: not in the release; log_canary.py" in listed
    assert "log_canary: not in the release" not in listed
    assert f"mallory, in {KEYS}" in listed
    assert "/etc/systemd/system/planted.timer" in listed
    for secret in ("database_password", "airflow_admin_password", "object_storage_secret_key"):
        assert (SECRETS / secret).read_text().strip() not in ended.stdout
