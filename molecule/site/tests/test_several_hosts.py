"""What several hosts promise together: runs, logs and secrets that cross them."""

import json
import re
import secrets
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
import testinfra
from conftest import (
    HEALTHY,
    SITE,
    Airflow,
    Public,
    open_ports,
    run_playbook,
    run_with_airflow,
    said,
    sleeping_task,
    unit_property,
    value,
    wait_for,
    watched_processes,
)
from testinfra.host import Host


@pytest.fixture(scope="module")
def hosts() -> dict[str, Host]:
    """Every host of the scenario, by what it does."""
    return {name: testinfra.get_host(f"docker://lvao-molecule-site-{name}") for name in SITE}


def test_every_component_is_healthy(airflow: Airflow) -> None:
    wait_for(lambda: airflow.health() == HEALTHY, 60, f"health; the last was {airflow.health()}")


def test_each_host_has_what_it_does_and_nothing_else(hosts: dict[str, Host]) -> None:
    units = "'caddy*' 'lvao-*' 'postgresql@*' 'swift-proxy*'"
    listing = f"systemctl list-units --type=service --state=running --no-legend --plain {units} | cut -d' ' -f1 | sort"
    running = {name: host.check_output(listing).split() for name, host in hosts.items()}
    components = ("dag-processor", "log-server", "scheduler", "triggerer")
    # Which of the three schedulers it is, is up to the deploys before.
    assert [re.sub(r"(-[abc])?\.service$", "", unit) for unit in running["scheduler"]] == [
        f"lvao-airflow-{name}" for name in components
    ]
    served = ["lvao-airflow-execution-api.service", "lvao-airflow-webserver.service"]
    assert running["webserver"] == ["caddy-private.service", "caddy.service", *served]
    assert [unit.partition("@")[0] for unit in running["database"]] == ["postgresql"]
    assert running["storage"] == ["swift-proxy.service"]
    assert not hosts["database"].file("/opt/airflow").exists


def test_the_webserver_listens_where_the_scheduler_reaches_it(hosts: dict[str, Host]) -> None:
    listening = hosts["webserver"].check_output("ss -ltnH | grep -v ':22 '").splitlines()
    wanted = {f"127.0.0.1:{port}" for port in (8080, 8081, 8082)} | {"172.29.213.12:8443", "*:80", "*:443"}
    assert {address for line in listening if not (address := line.split()[3]).startswith("127.0.0.11:")} == wanted


def test_what_tasks_report_crosses_the_network_over_tls_to_a_server_that_they_know(hosts: dict[str, Host]) -> None:
    ask = "curl --silent --max-time 10 --output /dev/null --write-out '%{http_code}' https://172.29.213.12:8443"
    ask += "/execution/health"
    trusted = "/opt/airflow/execution-api-ca.pem"
    assert hosts["scheduler"].check_output(f"{ask} --cacert {trusted}") == "200"
    # The bundle of the system knows other authorities, and each of these could pose as the webserver.
    assert hosts["scheduler"].run(ask).rc == 60
    imports = "from airflow.sdk.api import client"
    files = "client.API_SSL_CA_FILE_PATH, client.API_SSL_CERT_PATH"
    context = f"client.Client._get_ssl_context_cached({files}).cert_store_stats()"
    assert run_with_airflow(hosts["scheduler"], imports, context)["x509_ca"] == 1


def test_tasks_that_report_in_clear_are_not_cut_off(hosts: dict[str, Host]) -> None:
    core = "/opt/airflow/confirmed/etc/env.d/10-core.env"
    of_before = "s|https://172.29.213.12:8443|http://172.29.213.12:8080|"
    edit = f"cp --preserve $(realpath {core}) /root/core && sed --in-place '{of_before}' {core}"
    hosts["scheduler"].check_output(edit)
    try:
        ended = run_playbook("site", "all")
    finally:
        hosts["scheduler"].check_output(f"cp --preserve /root/core $(realpath {core})")
    assert ended.returncode != 0
    assert "what /opt/airflow/confirmed" in said(ended)
    assert "set reverse_proxy_private_plain to true" in said(ended)
    assert {*re.findall(r"changed=(\d+)", ended.stdout)} == {"0"}


def test_tasks_that_report_in_clear_are_served_while_the_site_says_so(hosts: dict[str, Host]) -> None:
    ask = "curl --silent --max-time 10 http://172.29.213.12:8080/execution/health"
    assert hosts["scheduler"].run(ask).rc != 0
    for plain, code in (("true", 0), ("false", 7)):
        tags = ["--tags", "firewall,reverse_proxy", "--extra-vars", f"reverse_proxy_private_plain={plain}"]
        ended = run_playbook("site", "all", *tags)
        assert ended.returncode == 0, ended.stdout
        assert hosts["scheduler"].run(ask).rc == code


@pytest.mark.parametrize("network", ["172.29.213.", "fd29:213::"], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("name", SITE)
def test_from_outside_ssh_alone_is_open_and_https_where_people_come_in(
    hosts: dict[str, Host], name: str, network: str
) -> None:
    everywhere = r"ss -ltnH | awk '$4 !~ /^(127\.|\[::1\])/' | wc -l"
    assert int(hosts[name].check_output(everywhere)) > 1  # something else listens, too
    found = open_ports(f"{network}{SITE.index(name) + 11}")
    assert found == ([22, 80, 443] if name == "webserver" else [22])
    print(f"open on {name}, at {network}: {found}")


def test_people_come_in_and_tasks_of_others_do_not(host: Host) -> None:
    public = Public(host, "airflow.lvao.test")
    assert public.ask("GET", "/api/v2/version")[0].status == 200
    assert public.ask("GET", "/execution/health")[0].status == 404


def test_each_host_finds_open_what_it_needs_of_the_others() -> None:
    ports = [22, 5432, 8080, 8081, 8082, 8090, 8443, 8793, 8794]
    needed = {
        "scheduler": [[22], [22, 8443], [22, 5432], [22, 8090]],
        "webserver": [[22, 8793, 8794], [22], [22, 5432], [22, 8090]],
        "database": [[22], [22], [22], [22]],
        "storage": [[22], [22], [22], [22]],
    }
    for name, wanted in needed.items():
        others = [number for number, other in enumerate(SITE) if other != name]
        found = [open_ports(f"172.29.213.{11 + number}", f"lvao-molecule-site-{name}", ports) for number in others]
        assert found == [wanted[number] for number in others], name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"firewall_ssh_sources": ["192.0.2.0/24"]}, "The firewall would cut off Ansible, which connects to"),
        (
            {"reverse_proxy_port": 22},
            "is 22, reverse_proxy_private_port 8443 and reverse_proxy_domain wants 80 and 443, on which ssh",
        ),
    ],
    ids=["the firewall", "a port that is taken"],
)
def test_what_stands_in_the_way_is_found_before_anything_changes(values: dict[str, object], message: str) -> None:
    ended = run_playbook("site", "all", "--extra-vars", json.dumps(values))
    assert ended.returncode != 0
    assert message in said(ended)
    assert {*re.findall(r"changed=(\d+)", ended.stdout)} == {"0"}
    assert "Set up every host" not in ended.stdout


def test_the_canary_passes() -> None:
    ended = run_playbook("canary", "all")
    assert ended.returncode == 0, ended.stdout


def test_the_database_is_reached_over_tls_alone_and_known_by_its_certificate(hosts: dict[str, Host]) -> None:
    def count(encrypted: str) -> int:
        sessions = "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE usename LIKE 'lvao-%'"
        psql = f"psql -At -v encrypted={encrypted}"
        return int(
            hosts["database"].check_output(f'echo "{sessions} AND ssl = :encrypted" | runuser -u postgres -- {psql}')
        )

    assert count("true") > 0
    assert count("false") == 0
    other = (
        "import os, psycopg2\n"
        "url = os.environ['AIRFLOW__DATABASE__SQL_ALCHEMY_CONN'].replace('+psycopg2', '')\n"
        "def ask(**changed):\n"
        "    try: return psycopg2.connect(url, **changed).closed\n"
        "    except psycopg2.OperationalError as error: return str(error)\n"
        "bundle = '/etc/ssl/certs/ca-certificates.crt'"
    )
    answers = "[ask(), ask(sslmode='disable'), ask(sslrootcert=bundle), ask(host='localhost', hostaddr=ADDRESS)]"
    answers = answers.replace("ADDRESS", "psycopg2.extensions.parse_dsn(url)['host']")
    known, unencrypted, unknown, misnamed = run_with_airflow(hosts["scheduler"], other, answers)
    assert known == 0
    assert "no encryption" in unencrypted
    assert "certificate verify failed" in unknown
    assert "does not match host name" in misnamed
    # A connection that needs a proof for the certificate: both sides know it.
    assert run_with_airflow(hosts["scheduler"], other, "ask(channel_binding='require', sslmode='require')") == 0


def test_the_log_of_a_running_task_is_read_from_the_scheduler(hosts: dict[str, Host], airflow: Airflow) -> None:
    with sleeping_task(hosts["scheduler"], airflow) as path:
        live = wait_for(lambda: (log := shown(airflow, path)) and "the sleeper sleeps" in log and log, 10, "its log")
        assert airflow.call("GET", path)[1]["state"] == "running"
        assert "http://lvao-molecule-site-scheduler:8793/" in live
        wait_for(lambda: airflow.call("GET", path)[1]["state"] == "success", 60, "its end")


def test_a_flood_from_one_source_reaches_neither_other_people_nor_tasks(
    host: Host, hosts: dict[str, Host], airflow: Airflow
) -> None:
    public = Public(host, "airflow.lvao.test")
    process = unit_property(host, "caddy", "MainPID")
    source = shlex.quote(Path(__file__).with_name("flood.py").read_text())
    attack = f"nice python3 -c {source} 172.29.213.12 airflow.lvao.test 4000 60"
    with ThreadPoolExecutor(1) as pool:
        flood = pool.submit(hosts["storage"].check_output, attack)
        # All that it may have is open by then.
        used = "ss -tnH state established sport = :443 src 172.29.213.12 dst 172.29.213.14 | wc -l"
        wait_for(lambda: int(host.check_output(used)) >= 400, 50, "the flood")
        assert public.ask("GET", "/api/v2/version")[0].status == 200
        with sleeping_task(hosts["scheduler"], airflow, seconds=1) as path:
            wait_for(lambda: airflow.call("GET", path)[1]["state"] == "success", 60, "the end of a task")
        assert public.ask("GET", "/api/v2/version")[0].status == 200
        assert int(host.check_output(used)) <= 500
        idle, slow = map(int, flood.result().split()[1:])
        assert min(idle, slow) > 50
        print(f"the attacker had {idle} idle connections and {slow} slow posts")
    assert unit_property(host, "caddy", "MainPID") == process


def shown(airflow: Airflow, path: str) -> str:
    """Read what the API shows of a task's first try."""
    return json.dumps(airflow.call("GET", f"{path}/logs/1")[1])


def test_no_secret_shows_during_a_deploy_or_after_it(host: Host, hosts: dict[str, Host]) -> None:
    names = ["airflow_fernet_key", "airflow_jwt_secret", "airflow_secret_key", "airflow_database_password"]
    names += ["airflow_database_admin_password", "airflow_logging_secret_key"]
    known = value(host, f"[{', '.join(names)}]")
    marked = f"marked-{secrets.token_hex(8)}"
    spellings = {*known, *(quote(secret, safe="") for secret in known), marked}
    # What is new has to be rendered and to reach the units, with the most that Ansible says.
    values = {"airflow_connections": {"marked": {"conn_type": "http", "password": marked}}}
    with watched_processes() as seen:
        ended = run_playbook("site", "all", "-vvv", "--diff", "--extra-vars", json.dumps(values))
    assert ended.returncode == 0, ended.stdout[-5000:]
    # Of the storage, a rotation may have changed the keys.
    assert re.search(r"lvao-molecule-site-database +: ok=\d+ +changed=0 ", ended.stdout)
    for known_process in ("airflow scheduler", "caddy run", "postgres -D", "swift-proxy-server"):
        assert any(known_process in line for line in seen)
    # The operator's own command line is what carries the marked one.
    others = [line.replace(json.dumps(values), "") for line in seen]
    for secret in spellings:
        assert secret not in ended.stdout
        assert not any(secret in line for line in others)
    patterns = "".join(f"-e {shlex.quote(spelling)} " for spelling in spellings)
    for one in hosts.values():
        assert not one.run(
            f"runuser -u nobody -- grep -rlsF {patterns} /etc /opt/airflow/releases /run /srv /tmp /var"
        ).stdout
        assert one.run(f"journalctl --no-pager | grep -F {patterns}").rc == 1
