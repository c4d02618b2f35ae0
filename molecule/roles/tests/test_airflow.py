"""A release, its configuration and the command that runs Airflow with both."""

import base64
import hashlib
import io
import json
import secrets
import shlex
import zipfile
from pathlib import Path

import pytest
from conftest import apply_role, assert_that_it_is_sandboxed, run_with_airflow, value, wait_for
from testinfra.host import Host

CURRENT = "/opt/airflow/current"


def environment(host: Host) -> dict[str, str]:
    """Read the environment that Airflow's processes get."""
    return run_with_airflow(host, "import os", "dict(os.environ)")


def test_the_release_says_what_it_is(host: Host) -> None:
    release = json.loads(host.file(f"{CURRENT}/release.json").content_string)
    assert host.check_output(f"readlink {CURRENT}") == f"/opt/airflow/releases/{release['id']}"
    assert set(release["schema_heads"]) == {"alembic_version", "alembic_version_fab"}
    assert host.file(f"{CURRENT}/dags/log_canary.py").exists
    assert not host.file(f"{CURRENT}/dags/tests").exists


def test_airflow_may_not_change_what_it_runs(host: Host) -> None:
    places = "/opt/airflow /etc/airflow/ /var/lib/airflow"
    found = host.run(f"runuser -u airflow -- find {places} -writable -not -type l -prune").stdout
    assert set(found.split()) == {"/var/lib/airflow/logs", "/var/lib/airflow/state"}


def test_the_command_runs_in_the_sandbox_of_the_services(host: Host) -> None:
    code = "import pathlib; pathlib.Path('~/kept').expanduser().touch(); open('/opt/airflow/current/dags/x.py', 'a')"
    refused = host.run(f'LVAO_PROGRAM=python airflow -c "{code}"')
    assert "Read-only file system: '/opt/airflow/current/dags/x.py'" in refused.stderr
    assert host.file("/var/lib/lvao-airflow-command/kept").user == "lvao-airflow-command"


def test_who_is_in_the_group_may_run_the_command_and_nothing_else(host: Host) -> None:
    host.check_output("useradd --groups lvao-airflow member && useradd stranger")
    ask = "airflow version"
    assert host.check_output(f"runuser -u member -- {ask}").startswith("3.")
    assert host.run(f"runuser -u stranger -- {ask}").failed
    assert host.run("runuser -u member -- sudo --non-interactive true").failed
    # A variable that only root may set.
    assert "-c 1` is for root alone" in host.run("runuser -u member -- env LVAO_PROGRAM=python airflow -c 1").stderr
    entry = f"{CURRENT}/bin/airflow-allowed"
    assert host.run(f"runuser -u member -- sudo --non-interactive LVAO_PROGRAM=python {entry} version").failed
    # What sudo would have to lead past.
    sandboxed = f"{CURRENT}/bin/airflow-sandboxed"
    assert host.run(f"runuser -u member -- sudo --non-interactive {sandboxed} version").failed
    for refused in ("connections export -", "config get-value database sql_alchemy_conn", "dags list --local"):
        assert "is for root alone" in host.run(f"runuser -u member -- airflow {refused}").stderr
    # As root, it would open any file.
    assert host.run("runuser -u member -- sudo --non-interactive airflow variables import /etc/shadow").failed
    said = host.check_output("journalctl --no-pager --output=cat --identifier=sudo")
    assert "member : " in said
    assert f"COMMAND={entry} {ask.removeprefix('airflow ')}" in said
    host.check_output("userdel member && userdel stranger")


@pytest.mark.parametrize("caller", ["root", "member"])
def test_files_come_and_go_with_the_callers_rights(host: Host, caller: str) -> None:
    host.check_output("useradd --create-home --groups lvao-airflow member")
    home = "/root" if caller == "root" else "/home/member"
    # Given to the shell by its standard input, so that no secret is an argument.
    steps = f"""set -eu; cd {home}
echo '{{"shop": "bicycle"}}' > vars.json
airflow variables import vars.json
echo 'shop: scooter' | airflow variables import -
airflow variables export ~/out.json
stat --format='%U %a' out.json
cat out.json | tr -d '\n'
rm out.json vars.json
airflow variables delete shop >&2
! airflow variables import none.json
"""
    ended = host.run(f"runuser -u {caller} -- bash -c {shlex.quote(steps)}")
    host.check_output("userdel --remove member")
    assert ended.rc == 0, ended.stderr
    assert ended.stdout.splitlines()[-2:] == [f"{caller} 600", '{    "shop": "scooter"}']
    assert "none.json: No such file or directory" in ended.stderr


def test_a_members_files_are_opened_before_root_comes(host: Host) -> None:
    host.check_output("useradd --groups lvao-airflow member")
    commands = ["variables import /etc/shadow", "variables export /etc/lvao-test", "users import /root/.bashrc"]
    refused = [host.run(f"runuser -u member -- airflow {command}") for command in commands]
    host.check_output("userdel member")
    assert all(ended.rc == 1 and "Permission denied" in ended.stderr for ended in refused)
    assert not host.file("/etc/lvao-test").exists


def test_a_program_can_read_what_the_command_prints(host: Host) -> None:
    for command in (
        "dags list",
        "dags list-import-errors",
        "connections list",
        "pools list",
        "users list",
        "roles list",
    ):
        assert isinstance(json.loads(host.check_output(f"airflow {command} -o json")), list)


def test_airflow_has_no_other_home(host: Host) -> None:
    found = host.check_output("find / -xdev -path /var/lib/docker -prune -o -path '*/airflow/logs' -print")
    assert found.split() == ["/var/lib/airflow/logs"]
    assert not host.file("/root/airflow").exists


def test_a_terminal_reaches_the_command(host: Host) -> None:
    ask = """script --quiet --command "LVAO_PROGRAM=python airflow -c 'print(open(0).isatty())'" /dev/null"""
    assert "True" in host.check_output(ask)


@pytest.mark.parametrize("unit", ["lvao-airflow-way-back", "lvao-airflow-watchdog", "lvao-airflow-shutdown"])
def test_what_root_runs_is_closed_to_what_it_does_not_need(host: Host, unit: str) -> None:
    assert_that_it_is_sandboxed(host, unit)


def test_the_fragments_belong_to_root_alone(host: Host) -> None:
    found = host.check_output("find /etc/airflow/ -name '*.env' -printf '%m %u %g %f\\n' | sort").splitlines()
    # The webserver's own is no fragment of the others' environment.
    names = ["10-core.env", "30-logging.env", "40-connections.env", "50-variables.env", "90-extra.env", "webserver.env"]
    assert found == [f"600 root root {name}" for name in names]


def test_the_secrets_stand_beside_the_releases_for_root_alone(host: Host) -> None:
    found = host.check_output("find /opt/airflow/secrets/current/ -printf '%m %u %g %y %P\\n' | sort").splitlines()
    keys = ["10-keys.env", "20-database.env", "30-bucket.env"]
    folders, files = ["", "env.d"], ["api-auth.env", *(f"env.d/{name}" for name in keys)]
    assert found == [*(f"600 root root f {name}" for name in files), *(f"700 root root d {name}" for name in folders)]
    assert host.run("runuser -u airflow -- ls /opt/airflow/secrets/current/").failed
    assert not host.run("grep -rlE 'FERNET_KEY|SECRET_KEY|JWT_SECRET' /opt/airflow/releases/*/etc").stdout
    assert host.run("runuser -u airflow -- cat /etc/airflow/env.d/10-core.env").failed


def test_tasks_alone_may_lock_a_release(host: Host) -> None:
    lock = f"flock --nonblock {CURRENT}/lock true"
    host.check_output(f"runuser -u airflow -- {lock}")
    assert "Permission denied" in host.run(f"runuser -u nobody -- {lock}").stderr
    assert "Permission denied" in host.run(f"runuser -u lvao-airflow-dag-processor -- {lock}").stderr


def test_a_probe_of_root_runs_as_no_other_process_does(host: Host) -> None:
    names = "AIRFLOW__(API|API_AUTH|CORE|DATABASE)__(.*_KEY|.*_SECRET|SQL_.*)|AIRFLOW_CONN_.*"
    code = f"import os, re; print(os.getuid(), *sorted(filter(re.compile('{names}').fullmatch, os.environ)))"
    asked = host.check_output(f'LVAO_PROBE=true LVAO_PROGRAM=python airflow -c "{code}"').split()
    database = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
    assert asked == [host.check_output("id -u lvao-airflow-probe"), database, f"{database}_ASYNC"]


def test_the_host_wins_over_the_environment_which_wins_over_what_all_have(host: Host) -> None:
    found = environment(host)
    assert found["LVAO_TEST_ALL"] == "all"
    assert found["LVAO_TEST_ENVIRONMENT"] == "environment"
    assert found["LVAO_TEST_HOST"] == "host"


def test_what_a_site_sets_wins_over_what_the_roles_set(host: Host) -> None:
    assert environment(host)["AIRFLOW__CORE__PARALLELISM"] == "7"


def test_later_fragments_win(host: Host) -> None:
    host.check_output("echo AIRFLOW__CORE__PARALLELISM=8 > /etc/airflow/env.d/95-test.env")
    found = environment(host)
    host.check_output("rm /etc/airflow/env.d/95-test.env")
    assert found["AIRFLOW__CORE__PARALLELISM"] == "8"


def test_values_arrive_byte_for_byte(host: Host) -> None:
    found, wanted = environment(host), value(host, "airflow_env")
    for name in ("LVAO_TEST_ODD", "LVAO_TEST_LINES", "LVAO_TEST_EMPTY"):
        assert found[name] == wanted[name]


def test_the_key_that_signs_tokens_is_not_for_every_process(host: Host) -> None:
    assert "AIRFLOW__API_AUTH__JWT_SECRET" not in environment(host)


def test_a_connection_arrives_byte_for_byte(host: Host) -> None:
    connection = "from airflow.sdk import Connection; c = Connection.get('webapp_db')"
    found = run_with_airflow(
        host, connection, "[c.conn_type, c.host, c.port, c.schema, c.login, c.password, c.extra_dejson]"
    )
    wanted = value(host, "airflow_connections.webapp_db")
    assert found == [wanted[name] for name in ("conn_type", "host", "port", "schema", "login", "password", "extra")]


def test_a_connection_may_be_a_uri(host: Host) -> None:
    found = run_with_airflow(host, "from airflow.sdk import Connection", "Connection.get('warehouse').password")
    assert found == "p@ss"


def test_variables_arrive(host: Host) -> None:
    found = "[Variable.get('plain'), Variable.get('list', deserialize_json=True)]"
    assert run_with_airflow(host, "from airflow.sdk import Variable", found) == ["a 'b' %", ["x", 1, True]]


def test_the_command_takes_its_arguments_as_they_are(host: Host) -> None:
    assert host.check_output("airflow config get-value core parallelism") == "7"
    failed = host.run("airflow 'no such command $HOME'")
    assert failed.rc != 0
    assert "no such command $HOME" in failed.stdout + failed.stderr


def make_wheel(name: str) -> bytes:
    """Make an empty package."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        facts = f"{name}-1.0.dist-info"
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{facts}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{facts}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{facts}/RECORD", "")
    return content.getvalue()


def save(host: Host, path: str, content: bytes) -> None:
    """Save a file on a host."""
    host.check_output(f"mkdir -p $(dirname {path}) && echo {base64.b64encode(content).decode()} | base64 -d > {path}")


def test_packages_come_from_the_index_of_the_site(host: Host, tmp_path: Path) -> None:
    # One that no earlier run has left in uv's cache, which outlives the host.
    package = f"lvao_probe_{secrets.token_hex(8)}"
    wheel = make_wheel(package)
    save(host, f"/root/index/simple/{package.replace('_', '-')}/{package}-1.0-py3-none-any.whl", wheel)
    save(host, "/root/index/index.py", Path(__file__).with_name("index.py").read_bytes())
    serve = "systemd-run --unit=lvao-test-index --working-directory=/root/index /usr/bin/python3 index.py"
    host.check_output(serve)
    wait_for(lambda: host.run("curl --silent http://127.0.0.1:8999/").succeeded, 10, "the index")
    lock = tmp_path / "airflow.txt"
    lock.write_text(f"{package}==1.0 --hash=sha256:{hashlib.sha256(wheel).hexdigest()}\n")
    values = {
        "airflow_requirements": str(lock),
        "airflow_index_url": "http://reader:a-secret-of-the-index@127.0.0.1:8999/simple/",
    }
    ended = apply_role(host, "airflow", "-vvv", "--diff", entry_point="install", **values)
    host.check_output("systemctl stop lvao-test-index")
    assert ended.returncode == 0, ended.stdout
    assert host.run(f"ls /opt/airflow/venvs/*/lib/python3*/site-packages/{package}.py").succeeded
    assert "a-secret-of-the-index" not in ended.stdout
    assert not host.run("runuser -u airflow -- grep -rlsF a-secret-of-the-index /opt/airflow /etc").stdout
