"""Who listens on a host that has every role, and where: nobody else, and nowhere else."""

import re

from testinfra.host import Host

OF_ROLES = {
    "caddy": {"*:80", "*:443"},
    "caddy-private": {"0.0.0.0:8080", "PRIVATE:8443"},
    "lvao-airflow-execution-api": {"127.0.0.1:8082"},
    "lvao-airflow-log-server": {"0.0.0.0:8793", "[::]:8793"},
    "lvao-airflow-triggerer": {"0.0.0.0:8794", "[::]:8794"},
    "lvao-airflow-webserver": {"127.0.0.1:8081"},
    "memcached": {"127.0.0.1:11211"},
    "postgresql": {"0.0.0.0:5432", "[::]:5432"},
    "swift-account": {"127.0.0.1:6202"},
    "swift-container": {"127.0.0.1:6201"},
    "swift-object": {"127.0.0.1:6200"},
    "swift-proxy": {"0.0.0.0:8090"},
}
OF_THE_SITE = {"ssh": {"0.0.0.0:22", "[::]:22"}, "tinyproxy": {"0.0.0.0:8888", "[::]:8888"}}


def test_units_listen_where_they_are_told_and_nobody_else_does(host: Host) -> None:
    found: dict[str, set[str]] = {}
    for line in host.check_output("ss --listening --tcp --numeric --extended --no-header").splitlines():
        address = line.split()[3]
        unit = re.search(r"([^/@ ]+)(@[^/ ]+)?\.service(?= |$)", line)
        # Docker resolves names in the host's network, and is no part of the host.
        if unit or not address.startswith("127.0.0.11:"):
            found.setdefault(unit[1] if unit else "no unit", set()).add(address)
    private = host.check_output("hostname --ip-address")
    found["caddy-private"] = {address.replace(private, "PRIVATE") for address in found["caddy-private"]}
    assert found == OF_ROLES | OF_THE_SITE
