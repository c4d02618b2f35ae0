"""Whose heartbeat the watchdog asks for."""

import heartbeat
import pytest
from airflow.utils.net import get_hostname


@pytest.mark.parametrize(
    "setting",
    [
        "airflow.utils.net.getfqdn",
        "airflow.utils.net.get_host_ip_address",
        "socket.getfqdn",
        "socket.gethostname",
    ],
)
def test_the_host_is_known_by_each_name_that_airflow_may_give_it(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__HOSTNAME_CALLABLE", setting)
    assert get_hostname() in heartbeat.host_names()
