"""To whom each program that logs in hands the database's password: tried on servers that ask for it in clear."""

import asyncio
import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import database
import psycopg
import psycopg2
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from forged_database import NOW, TOMORROW, ForgedDatabase, certificate, forged_database
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

PROJECT = Path(__file__).parents[2]
ROLE = PROJECT / "roles/airflow_database"
KEPT_BACK = "password-of-a-test"
RENDERED = ("__airflow_database_env", "__airflow_database_dsn", "__airflow_database_tls_env")
Values = dict[str, Any]
# The forged server has a certificate of an authority that the site trusts, for another name. Where it is handed the
# password, as the true server is, a program shows that it does log in.
SITES: dict[str, Values] = {
    "require without channel binding": {
        "airflow_database_sslmode": "require",
        "airflow_database_channel_binding": "prefer",
    },
    "verify-full at the true server": {"airflow_database_sslmode": "verify-full"},
    "require": {"airflow_database_sslmode": "require"},
    "verify-ca": {"airflow_database_sslmode": "verify-ca"},
    "verify-full": {
        "airflow_database_sslmode": "verify-full",
        "airflow_database_options": {"sslmode": "require", "channel_binding": "disable"},
    },
}
TOLD = {"require without channel binding", "verify-full at the true server"}


class Case(NamedTuple):
    """A server, what the role makes of a site's values, and what its own tasks have handed over."""

    server: ForgedDatabase
    environment: dict[str, str]
    dsn: dict[str, str]
    libpq: dict[str, str]
    told_by_modules: list[str]


def render(folder: Path, sites: dict[str, Values]) -> list[list[dict[str, str]]]:
    """Log in by the role's own tasks, in check mode, and tell what other programs are given.

    Args:
        folder: Where to work.
        sites: Values of each.

    Returns:
        The variables in `RENDERED`, for each site.
    """
    alike = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "airflow_database_python": sys.executable,
        "airflow_database_host": "127.0.0.1",
        "airflow_database_password": KEPT_BACK,
        "airflow_database_admin_password": KEPT_BACK,
        "airflow_directory": str(folder),
    }
    hosts = {f"site-{number}": alike | values for number, values in enumerate(sites.values())}
    log_in = {"ansible.builtin.import_role": {"name": "airflow_database", "tasks_from": "connection"}}
    show = {"ansible.builtin.debug": {"msg": f"{{{{ [{', '.join(RENDERED)}] | to_json | b64encode }}}}"}}
    play = {"hosts": "all", "gather_facts": False, "tasks": [{"block": [log_in], "always": [show]}]}
    (folder / "play.json").write_text(json.dumps([play]))
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    command = ["ansible-playbook", "--check", "-i", folder / "hosts.json", folder / "play.json"]
    ended = subprocess.run(command, cwd=PROJECT, text=True, capture_output=True, check=False)
    shown = dict(re.findall(r"\[(site-\d)\] =>\s+msg: (\S+)", ended.stdout))
    return [json.loads(base64.b64decode(shown[host])) for host in hosts]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    """A server for each site, which has the site's programs log in."""
    folder = tmp_path_factory.mktemp("database")
    true, forged = (certificate(folder / name, name) for name in ("127.0.0.1", "another.test"))
    with ExitStack() as stack:
        sites, servers = {}, []
        for name, values in SITES.items():
            shown, trusted = ("127.0.0.1", true) if "true" in name else ("another.test", forged)
            servers.append(stack.enter_context(forged_database(folder / shown / "both.pem")))
            own = {"airflow_database_ca_certificate": trusted, "airflow_database_port": servers[-1].port}
            sites[name] = values | own
        rendered = render(folder, sites)
        yield {
            name: Case(server, *made, told_by_modules=[*server.passwords])
            for name, server, made in zip(sites, servers, rendered, strict=True)
        }


def query(case: Case) -> None:
    with suppress(OperationalError):
        create_engine(case.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]).connect()


def asynchronous_query(case: Case) -> None:
    async def ask() -> None:
        async with create_async_engine(case.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"]).connect():
            pass

    with suppress(OperationalError):
        asyncio.run(ask())


def libexec(case: Case) -> None:
    with pytest.MonkeyPatch.context() as patch, suppress(psycopg2.OperationalError):
        patch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", case.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
        database.connect()


def pg_dump(case: Case) -> None:
    """Stand in for pg_dump, which tells libpq the same, by its environment."""
    with pytest.MonkeyPatch.context() as patch, suppress(psycopg2.OperationalError):
        for name, text in case.libpq.items():
            patch.setenv(name, text)
        psycopg2.connect(**{key: case.dsn[key] for key in ("host", "port", "dbname", "user", "password")})


def program(name: str) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        said = json.dumps({"dsn": case.dsn, "username": "admin", "password": "another"})
        command = [sys.executable, ROLE / f"files/{name}.py"]
        subprocess.run(command, input=said, text=True, capture_output=True, check=False)

    return run


PROGRAMS = {
    "query": query,
    "asynchronous query": asynchronous_query,
    "libexec/database.py": libexec,
    "pg_dump": pg_dump,
    "admin_account.py": program("admin_account"),
    "change_password.py": program("change_password"),
}


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("client", PROGRAMS)
def test_a_forged_server_gets_no_password(cases: dict[str, Case], client: str, name: str) -> None:
    case = cases[name]
    case.server.passwords.clear()
    PROGRAMS[client](case)
    assert case.server.passwords == ([KEPT_BACK] if name in TOLD else [])


@pytest.mark.parametrize("name", SITES)
def test_it_gets_none_from_ansibles_modules(cases: dict[str, Case], name: str) -> None:
    assert cases[name].told_by_modules == ([KEPT_BACK] if name in TOLD else [])


@pytest.mark.parametrize("driver", [psycopg2, psycopg])
def test_what_a_task_leaves_at_home_keeps_no_unit_from_the_database(
    cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: ModuleType
) -> None:
    """A list of revoked certificates is read unasked, and that of another authority is an error."""
    case = cases["verify-full at the true server"]
    certificate(tmp_path)
    key = serialization.load_pem_private_key((tmp_path / "both.pem").read_bytes(), None)
    issuer = x509.Name([])
    revoked = x509.CertificateRevocationListBuilder(issuer, NOW, TOMORROW).sign(key, hashes.SHA256())
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql/root.crl").write_bytes(revoked.public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("HOME", str(tmp_path))

    def sessions() -> int:
        before = case.server.sessions
        with suppress(driver.OperationalError):
            driver.connect(**case.dsn)
        return case.server.sessions - before

    assert sessions() == 0
    sandbox = yaml.safe_load((PROJECT / "roles/airflow/vars/main/sandbox.yml").read_text())["__airflow_sandbox"]
    for name, text in (line.split("=", 1) for line in sandbox["Environment"] if line.startswith("PG")):
        monkeypatch.setenv(name, text)
    assert sessions() == 1
