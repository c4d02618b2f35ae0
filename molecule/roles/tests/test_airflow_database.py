"""Airflow's database: migrated, owned by its role, with its admin account and pools."""

import json
import shlex
from collections.abc import Iterator

import pytest
from conftest import apply_role, run_with_airflow, value
from testinfra.host import Host

DATABASE = "lvao-molecule-airflow"


def query(host: Host, statement: str) -> str:
    return host.check_output(f"runuser -u postgres -- psql {DATABASE} -Atc {shlex.quote(statement)}")


def admin_password_is(host: Host, password: str) -> bool:
    stored = query(host, "SELECT password FROM ab_user WHERE username = 'admin'").encode().hex()
    imports = "from werkzeug.security import check_password_hash"
    # In hexadecimal, for systemd expands what has a dollar sign.
    arguments = f"bytes.fromhex('{stored}').decode(), bytes.fromhex('{password.encode().hex()}').decode()"
    return run_with_airflow(host, imports, f"check_password_hash({arguments})")


def test_it_belongs_to_airflow(host: Host) -> None:
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
    assert query(host, owner) == DATABASE
    assert query(host, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'") == DATABASE
    rights = "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname LIKE 'lvao-%'"
    assert query(host, rights) == "f|f|f"


def test_it_has_the_schema_that_the_release_wants(host: Host) -> None:
    heads = json.loads(host.file("/opt/airflow/current/release.json").content_string)["schema_heads"]
    assert query(host, "SELECT version_num FROM alembic_version") == heads["alembic_version"]
    assert query(host, "SELECT version_num FROM alembic_version_fab") == heads["alembic_version_fab"]


def test_airflow_reaches_it_with_an_odd_password(host: Host) -> None:
    imports = "from sqlalchemy import text\nfrom airflow.utils.session import create_session"
    assert (
        run_with_airflow(host, imports, "create_session().__enter__().scalar(text('SELECT current_user'))") == DATABASE
    )


def test_its_asynchronous_queries_do_too(host: Host) -> None:
    imports = (
        "import asyncio\nfrom sqlalchemy import text\nfrom airflow.utils.session import create_session_async\n"
        "async def ask():\n"
        "    async with create_session_async() as session:\n"
        "        return await session.scalar(text('SELECT current_user'))"
    )
    assert run_with_airflow(host, imports, "asyncio.run(ask())") == DATABASE


def test_the_admin_account_is_there_once(host: Host) -> None:
    # Those of other tests come from their provider of OpenID Connect.
    assert query(host, "SELECT username FROM ab_user WHERE username NOT LIKE 'sso_%'") == "admin"
    names = "SELECT name FROM ab_role JOIN ab_user_role ON role_id = ab_role.id JOIN ab_user ON user_id = ab_user.id"
    assert query(host, f"{names} WHERE username = 'admin'") == "Admin"
    assert admin_password_is(host, value(host, "airflow_database_admin_password"))


def test_pools_are_as_wanted_and_others_stay(host: Host) -> None:
    pools = query(host, "SELECT pool, slots, description, include_deferred FROM slot_pool ORDER BY pool").splitlines()
    canary = "canary|1|For the DAG log_canary alone|f"
    assert pools == [canary, "default_pool|64||f", 'loads|3|Of the warehouse\'s "loads"|t']


@pytest.fixture
def _old_password(host: Host) -> Iterator[None]:
    """Bring back the password that other tests log in with."""
    query(host, "CREATE TABLE kept AS SELECT id, password FROM ab_user")
    yield
    query(host, "UPDATE ab_user SET password = kept.password FROM kept WHERE ab_user.id = kept.id; DROP TABLE kept")


@pytest.mark.usefixtures("_old_password")
def test_a_new_password_is_set(host: Host) -> None:
    new = "another $password"
    ended = apply_role(host, "airflow_database", airflow_database_admin_password=new)
    assert ended.returncode == 0, ended.stdout
    assert admin_password_is(host, new)
    assert new not in ended.stdout


RESTORE = "/usr/bin/python3 -I /opt/airflow/current/libexec/restore.py"


@pytest.fixture
def dump(host: Host) -> Iterator[str]:
    """A dump of the database, and another database."""
    path = "/srv/lvao-test/test.pgc"
    query(host, "CREATE DATABASE lvao_test")
    host.check_output(f"runuser -u postgres -- pg_dump --format=custom --file={path} {DATABASE}")
    yield path
    query(host, "DROP DATABASE lvao_test")
    host.check_output(f"rm {path}")


def test_a_dump_is_not_put_back_while_airflow_runs(host: Host, dump: str) -> None:
    ended = host.run(f"{RESTORE} {dump}")
    assert ended.rc == 1
    assert f"{DATABASE}, PostgreSQL " in ended.stderr
    assert "is in use" in ended.stderr


def test_a_dump_takes_the_place_of_what_is_there(host: Host, dump: str) -> None:
    as_postgres = "runuser -u postgres -- env PGHOST=/var/run/postgresql PGDATABASE=lvao_test"
    host.check_output(f"{as_postgres} psql -qc 'CREATE TABLE job (x int); CREATE TABLE newer (x int)'")
    ended = host.run(f"{as_postgres} {RESTORE} - < {dump}")
    assert ended.rc == 0, ended.stderr
    head = query(host, "SELECT version_num FROM alembic_version")
    assert f"is as in the dump, with the schema {head}." in ended.stdout
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert host.check_output(f'{as_postgres} psql -Atc "{tables}"') == query(host, tables)
    assert host.run(f"head -c 20000 {dump} | {as_postgres} {RESTORE} -").rc == 1
    assert host.check_output(f'{as_postgres} psql -Atc "{tables}"') == query(host, tables)
