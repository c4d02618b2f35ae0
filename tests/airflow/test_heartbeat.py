"""Whose heartbeat the watchdog asks for."""

import socket

import heartbeat
import pytest
from airflow.utils import net


@pytest.mark.parametrize(
    "setting",
    ["", "airflow.utils.net.getfqdn", "airflow.utils.net.get_host_ip_address", "socket.getfqdn", "platform.node"],
)
def test_the_host_has_the_name_that_airflow_gives_it(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if setting:
        monkeypatch.setenv("AIRFLOW__CORE__HOSTNAME_CALLABLE", setting)
    assert heartbeat.host_name() == net.get_hostname()


@pytest.mark.parametrize("canonical", ["short", "", None], ids=["short one first", "no name", "resolves to nothing"])
def test_it_has_it_however_that_resolves(canonical: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[tuple]:
        if canonical is None:
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, canonical, ("192.0.2.7", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    net.getfqdn.cache_clear()
    try:
        assert heartbeat.host_name() == net.get_hostname()
    finally:
        net.getfqdn.cache_clear()
