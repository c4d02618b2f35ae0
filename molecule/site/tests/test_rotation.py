"""Rotations of secrets, under tasks that run and connections that stay readable."""

import itertools
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable

import pytest
import testinfra
from conftest import (
    HEALTHY,
    INVENTORY,
    PROJECT,
    Airflow,
    Ended,
    address,
    run_playbook,
    run_with_airflow,
    said,
    sleeping_task,
    value,
    wait_for,
    watched_processes,
)
from testinfra.host import Host

WAITS = "waits for 1 task(s): sleeper.sleep"
KEPT = "a-password-under-the-old-key"
DOMAIN = "airflow.lvao.test"
VAULT = PROJECT / "group_vars/site/vault.yml"


@pytest.fixture(scope="module")
def scheduler() -> Host:
    """The host that runs the tasks."""
    return testinfra.get_host("docker://lvao-molecule-site-scheduler")


@pytest.fixture
def alarm(scheduler: Host) -> str:
    """Name a file that wakes the sleeper."""
    path = "/var/lib/airflow/alarm-of-a-rotation"
    scheduler.check_output(f"rm --force {path}")
    return path


def rotate(secret: str, text: str = "", action: Callable[[int], object] | None = None) -> Ended:
    """Rotate, as an operator would, and say how long it took.

    Args:
        secret: Which ones.
        text: What it says at some time, whose lines Ansible may have folded.
        action: What to do then, once, with the id of its process.

    Returns:
        The ended process, with standard output and error in `stdout`.
    """
    command = ["ansible-playbook", "-i", INVENTORY, "playbooks/rotate.yml", "--extra-vars", f"rotate_secrets={secret}"]
    began, lines = time.monotonic(), []
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=PROJECT, start_new_session=True, **pipes) as process:
        for line in process.stdout:
            lines.append(line)
            if action and text in " ".join("".join(lines[-5:]).split()):
                action(process.pid)
                action = None
    print(f"the rotation of {secret} took {time.monotonic() - began:.0f} s")
    assert action is None, f"it never said {text}: {''.join(lines)}"
    return subprocess.CompletedProcess(command, process.returncode, "".join(lines))


def browse(host: Host, *arguments: str) -> str:
    """Ask for the login page over HTTPS, with the cookies of a session, and return the HTTP status and the page."""
    url = f"https://{DOMAIN}/auth/login/"
    command = ["curl", "--silent", "--insecure", "--resolve", f"{DOMAIN}:443:{address(host)}", "--referer", url]
    command += ["--cookie", "/root/cookies", "--cookie-jar", "/root/cookies", "--write-out", "%{http_code}"]
    return host.check_output(shlex.join([*command, *arguments, url]))


def log_in(host: Host, password: str) -> None:
    """Begin a session, as a browser does."""
    token = re.search('csrf_token"[^>]* value="([^"]+)"', browse(host))[1]
    fields = {"csrf_token": token, "username": "admin", "password": password}
    browse(host, *itertools.chain(*(("--data-urlencode", f"{name}={content}") for name, content in fields.items())))
    assert is_logged_in(host)


def is_logged_in(host: Host) -> bool:
    """Tell whether the session is in force: who is logged in is sent on from the login page."""
    return browse(host).endswith("302")


def known(host: Host, *names: str) -> dict[str, str]:
    """Read secrets as the roles see them."""
    return dict(zip(names, value(host, f"[{', '.join(names)}]"), strict=True))


def secrets_of_units(host: Host) -> set[str]:
    """Ask which sets of secrets the running units of Airflow have started with."""
    units = "systemctl list-units --state=running --plain --no-legend 'lvao-airflow-*.service' | cut -d' ' -f1"
    links = f"{units} | sed 's#.service$##; s#.*#/run/lvao-airflow/&/secrets#' | xargs readlink"
    return {*host.check_output(links).split()}


def processes(host: Host) -> str:
    """Ask for the processes of the running units of Airflow."""
    units = "systemctl list-units --state=running --plain --no-legend 'lvao-airflow-*.service' | cut -d' ' -f1"
    return host.check_output(f"{units} | xargs systemctl show --property=Id,MainPID")


def retired(host: Host) -> list[str]:
    """Read which sets of secrets rotations have replaced."""
    return host.run("cut --delimiter=' ' --fields=1 /opt/airflow/retired-secrets").stdout.split()


def assert_that_an_older_vault_is_refused(hosts: list[Host], vault: bytes) -> None:
    """Check that nothing that runs is touched with it, and that the one of now goes on working."""
    newer, before = VAULT.read_bytes(), [processes(host) for host in hosts]
    where = "scheduler:webserver"
    VAULT.write_bytes(vault)
    try:
        refused = [run_playbook("deploy", where), rotate("jwt_secret")]
        assert VAULT.read_bytes() == vault
    finally:
        VAULT.write_bytes(newer)
    for ended in refused:
        assert ended.returncode != 0
        assert "The vault of this checkout is older than the rotation of 20" in said(ended)
        line = re.search("remove the line that begins with ([0-9a-f]+) from /opt/airflow/retired-secrets", said(ended))
        assert all(line[1] in retired(host) for host in hosts)
    assert [processes(host) for host in hosts] == before
    ended = run_playbook("deploy", where)
    assert ended.returncode == 0, ended.stdout[-5000:]


def assert_that_it_found_its_connection(airflow: Airflow, path: str) -> None:
    """Check that a sleeper ended well at its first try, with the same connection after its sleep as before."""
    wait_for(lambda: airflow.call("GET", path)[1]["state"] not in {"running", "queued"}, 120, f"{path} to end")
    task = airflow.call("GET", path)[1]
    assert (task["state"], task["try_number"]) == ("success", 1)
    run_id = path.split("/")[4]
    wait_for(lambda: "found its connection" in airflow.log("sleeper", run_id, "sleep"), 30, "its log")


def assert_that_nothing_shows(hosts: list[Host], ended: Ended, old: list[str], new: list[str]) -> None:
    """Check that each host runs with one set of secrets, the new one alone, and that no journal or output has any."""
    gone = "".join(f"-e {shlex.quote(secret)} " for secret in old)
    hidden = gone + "".join(f"-e {shlex.quote(secret)} " for secret in new)
    for host in hosts:
        assert secrets_of_units(host) == {host.check_output("realpath /opt/airflow/secrets/current")}
        assert len(host.check_output("ls /opt/airflow/secrets").split()) == 3  # it, and two links to it
        assert not host.run(
            f"grep -rlsF {gone} /etc /opt/airflow/secrets /opt/airflow/next /run /var/lib/airflow"
        ).stdout
        assert host.run(f"journalctl --no-pager | grep -F {hidden}").rc == 1
    for secret in [*old, *new]:
        assert secret not in ended.stdout


def test_new_keys_end_sessions_and_no_task(host: Host, scheduler: Host, alarm: str) -> None:
    airflow = Airflow(host)
    names = ("airflow_jwt_secret", "airflow_secret_key", "airflow_database_admin_password")
    before, vault = known(host, *names), VAULT.read_bytes()
    token = airflow.login(airflow.password)[1]
    log_in(host, airflow.password)
    connection = {"connection_id": "kept", "conn_type": "http", "password": KEPT, "extra": '{"a": "b"}'}
    assert airflow.call("POST", "/connections", connection)[0] == 201
    assert airflow.call("POST", "/variables", {"key": "kept", "value": KEPT})[0] == 201
    with (
        sleeping_task(scheduler, airflow, seconds=600, until=alarm, connection="kept") as path,
        watched_processes() as seen,
    ):
        secrets = "jwt_secret,secret_key,admin_password"
        ended = rotate(secrets, WAITS, lambda _: scheduler.check_output(f"touch {alarm}"))
    assert ended.returncode == 0, ended.stdout[-5000:]
    assert "the secret that signs the tokens of tasks changes" in said(ended)
    assert "Commit " in said(ended)
    assert "in dumps from before" not in said(ended)
    assert "could have left:" in said(ended)

    # Nobody gets in with what was, and everybody with what is.
    assert airflow.call("GET", "/dags", token=token)[0] == 403
    assert airflow.login(airflow.password)[0] == 401
    assert not is_logged_in(host)
    airflow = Airflow(host)
    assert_that_it_found_its_connection(airflow, path)
    wait_for(lambda: airflow.health() == HEALTHY, 60, "health")
    after = known(host, *names)
    assert not {*before.values()} & {*after.values()}
    assert_that_nothing_shows([host, scheduler], ended, [*before.values()], [*after.values()])
    for secret in [*before.values(), *after.values()]:
        assert not any(secret in line for line in seen)
    assert_that_an_older_vault_is_refused([host, scheduler], vault)


def test_a_wrong_pair_of_keys_changes_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_AIRFLOW_LOGGING_ACCESS_KEY", "lvao:nobody")
    monkeypatch.setenv("VAULT_AIRFLOW_LOGGING_SECRET_KEY", "not-the-secret-key")
    before = VAULT.read_bytes(), secrets_of_units(host)
    ended = rotate("jwt_secret,bucket_keys")
    assert ended.returncode != 0
    assert "airflow_logging_access_key, airflow_logging_secret_key or airflow_logging_region is wrong" in said(ended)
    assert "not-the-secret-key" not in ended.stdout
    assert (VAULT.read_bytes(), secrets_of_units(host)) == before


def test_what_was_cut_off_is_brought_to_its_end(
    host: Host, scheduler: Host, alarm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = testinfra.get_host("docker://lvao-molecule-site-storage")
    # As who runs the storage makes it.
    user = "user_lvao_second = the-second-secret-key .admin"
    storage.check_output(
        f"sed -i '/^user_lvao_/a {user}' /etc/swift/proxy-server.conf && systemctl restart swift-proxy"
    )
    monkeypatch.setenv("VAULT_AIRFLOW_LOGGING_ACCESS_KEY", "lvao:second")
    monkeypatch.setenv("VAULT_AIRFLOW_LOGGING_SECRET_KEY", "the-second-secret-key")
    names = ("airflow_fernet_key", "airflow_database_password", "airflow_logging_secret_key")
    before, retired_before = known(host, *names), {one: retired(one) for one in (host, scheduler)}
    live = host.check_output("basename $(realpath /opt/airflow/secrets/current)")
    airflow = Airflow(host)
    with sleeping_task(scheduler, airflow, seconds=600, until=alarm, connection="kept") as path:
        # The database knows the new password alone, and what runs the old one.
        changed = "password | Refuse a database that keeps the old one"
        rotate("database_password", changed, lambda process: os.killpg(process, signal.SIGKILL))
        refused = run_playbook("canary", "all")
        assert refused.returncode != 0
        advice = "a rotation was cut off. Bring it to its end: make rotate ENV=site SECRET=database_password"
        assert advice in said(refused)
        # The old fernet key goes once the scheduler that knows it has ended.
        secrets = "fernet_key,database_password,bucket_keys"
        ended = rotate(secrets, WAITS, lambda _: scheduler.check_output(f"touch {alarm}"))
    assert ended.returncode == 0, ended.stdout[-5000:]
    places = "/var/backups/lvao-airflow on lvao-molecule-site-scheduler, and in s3://lvao-site-airflow below dumps/"
    assert f"in dumps from before, which are in {places}" in said(ended)
    assert_that_it_found_its_connection(airflow, path)
    wait_for(lambda: airflow.health() == HEALTHY, 60, "health")
    after = known(host, *names)
    assert not {*before.values()} & {*after.values()}
    assert "," not in after["airflow_fernet_key"]
    assert value(host, "airflow_logging_access_key") == "lvao:second"
    assert not value(host, "vault_airflow_database_password_before is defined")
    assert_that_nothing_shows([host, scheduler], ended, [*before.values()], [*after.values()])
    for one, sets in retired_before.items():
        # With the one of the run that was cut off, and the one that had both fernet keys.
        assert len({live, *retired(one)} - {*sets}) == len(retired(one)) - len(sets) == 3
        assert one.check_output("basename $(realpath /opt/airflow/secrets/current)") not in retired(one)

    # In a process that starts now, and knows the new key alone.
    imports = "from airflow.models import Connection\nfrom airflow.utils.session import create_session\n"
    imports += "from sqlalchemy import select\nsession = create_session().__enter__()\n"
    imports += "kept = session.scalar(select(Connection).where(Connection.conn_id == 'kept'))"
    assert run_with_airflow(scheduler, imports, "[kept.password, kept.extra_dejson]") == [KEPT, {"a": "b"}]
    assert airflow.call("GET", "/variables/kept")[1]["value"] == KEPT
    # The journal, in which no secret may stand, keeps the commands of units.
    passwords = (secrets["airflow_database_password"].encode().hex() for secrets in (after, before))
    spelt = [f"bytes.fromhex('{password}').decode()" for password in passwords]
    log_in = (
        "import os, psycopg2\n"
        "url = os.environ['AIRFLOW__DATABASE__SQL_ALCHEMY_CONN'].replace('+psycopg2', '')\n"
        f"old = url.replace({', '.join(spelt)})\n"
        "def log_in(url):\n"
        "    try: return not psycopg2.connect(url).closed\n"
        "    except psycopg2.OperationalError as error: return str(error)"
    )
    same, with_new, with_old = run_with_airflow(scheduler, log_in, "[old == url, log_in(url), log_in(old)]")
    assert (same, with_new) == (False, True)
    assert "password authentication failed" in with_old
