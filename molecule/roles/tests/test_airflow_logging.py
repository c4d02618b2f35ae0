"""The connection that Airflow keeps its logs with, and the bucket that they go to."""

from conftest import run_with_airflow, value
from testinfra.host import Host

BUCKET = "lvao-molecule-airflow"


def test_the_connection_arrives_byte_for_byte(host: Host) -> None:
    connection = "from airflow.sdk import Connection; c = Connection.get('s3logs')"
    conn_type, login, password, extra = run_with_airflow(
        host, connection, "[c.conn_type, c.login, c.password, c.extra_dejson]"
    )
    assert (conn_type, login) == ("aws", "lvao:airflow")
    assert password == value(host, "object_storage_secret_key")
    assert extra == {"endpoint_url": "http://127.0.0.1:8090", "region_name": "fr-par"}


def test_airflow_stores_logs_with_it(host: Host) -> None:
    settings = run_with_airflow(host, "from airflow.configuration import conf", "conf.getsection('logging')")
    assert settings["remote_logging"] is True
    assert settings["remote_base_log_folder"] == f"s3://{BUCKET}"
    assert settings["remote_log_conn_id"] == "s3logs"
    assert settings["encrypt_s3_logs"] is False


def test_the_bucket_is_there_and_the_proof_left_nothing_in_it(host: Host) -> None:
    hook = "from airflow.providers.amazon.aws.hooks.s3 import S3Hook"
    keys = run_with_airflow(host, hook, f"S3Hook('s3logs').list_keys({BUCKET!r})")
    # The tasks of other tests leave their logs.
    assert [key for key in keys if not key.startswith("dag_id=")] == []
