"""A PostgreSQL server that nobody enters without a password."""

import pytest
from testinfra.host import Host

ADDRESS = "$(hostname --ip-address)"


@pytest.fixture(scope="module", autouse=True)
def _accounts(host: Host) -> None:
    """Make a database and its owner, who has a password."""
    for statement in ("CREATE ROLE alice LOGIN PASSWORD 'sesame'", "CREATE DATABASE library OWNER alice"):
        host.check_output(f'runuser -u postgres -- psql -qc "{statement}"')
    yield
    for statement in ("DROP DATABASE library", "DROP ROLE alice"):
        host.check_output(f'runuser -u postgres -- psql -qc "{statement}"')


def ask(host: Host, address: str, password: str, sslmode: str = "prefer", query: str = "SELECT 1") -> str:
    """Query the database from the host, and give the answer or the error."""
    ended = host.run(
        f"PGPASSWORD={password} psql \"host={address} user=alice dbname=library sslmode={sslmode}\" -Atc '{query}'"
    )
    return (ended.stdout if ended.succeeded else ended.stderr).strip()


def test_it_runs_now_and_at_boot(host: Host) -> None:
    assert host.service("postgresql").is_running
    assert host.service("postgresql").is_enabled


def test_the_password_opens_the_database(host: Host) -> None:
    assert ask(host, "127.0.0.1", "sesame") == "1"


def test_no_other_password_does(host: Host) -> None:
    assert "password authentication failed" in ask(host, "127.0.0.1", "wrong")


def test_passwords_are_kept_as_scram(host: Host) -> None:
    kept = host.check_output(
        "runuser -u postgres -- psql -Atc \"SELECT rolpassword FROM pg_authid WHERE rolname = 'alice'\""
    )
    assert kept.startswith("SCRAM-SHA-256$")


def test_an_allowed_network_enters_with_tls_alone(host: Host) -> None:
    assert ask(host, ADDRESS, "sesame", "require", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == "t"
    assert "no encryption" in ask(host, ADDRESS, "sesame", "disable")
    assert "password authentication failed" in ask(host, ADDRESS, "wrong", "require")


def test_settings_are_taken_as_they_are(host: Host) -> None:
    assert host.check_output("runuser -u postgres -- psql -Atc 'SHOW log_line_prefix'") == "it's %m "
