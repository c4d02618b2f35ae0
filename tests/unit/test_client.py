"""Whether PostgreSQL's client on a host suits the server, by what apt knows before anything is installed."""

import importlib.util
from pathlib import Path

import pytest

ROLE = Path(__file__).parents[2] / "roles/airflow_database"
SPEC = importlib.util.spec_from_file_location("postgresql", ROLE / "filter_plugins/postgresql.py")
FILTERS = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(FILTERS)
NONE = "(none)"


def policy(**packages: tuple[str, str]) -> str:
    """Write what `apt-cache policy` prints: the installed version of each package, and that to be had."""
    return "".join(
        f"{name.replace('_', '-')}:\n  Installed: {installed}\n  Candidate: {candidate}\n  Version table:\n"
        for name, (installed, candidate) in packages.items()
    )


def fault(server: int, package: str = "postgresql-client", **packages: tuple[str, str]) -> str:
    return FILTERS.client_fault(policy(**packages), package, server, "one")


def test_it_asks_for_the_package_and_for_one_that_is_as_new() -> None:
    assert FILTERS.client_names("postgresql-client", 17) == ["postgresql-client", "postgresql-client-17"]
    assert FILTERS.client_names("postgresql-client-17", 17) == ["postgresql-client-17"]


@pytest.mark.parametrize("server", [14, 15])
def test_a_server_that_is_older_or_equal_is_taken(server: int) -> None:
    assert fault(server, postgresql_client=(NONE, "15+248+deb12u2")) == ""


def test_a_newer_server_is_refused_with_the_package_and_where_it_may_come_from() -> None:
    said = fault(17, postgresql_client=(NONE, "15+248+deb12u2"))
    assert (
        "server is PostgreSQL 17, and airflow_database_client_package, postgresql-client, brings pg_dump 15 on" in said
    )
    assert said.endswith(
        "set airflow_database_client_package to postgresql-client-17, name a repository that has it in "
        "common_apt_repositories, such as PostgreSQL's own, and run make site."
    )


def test_a_repository_is_not_asked_for_where_there_is_one() -> None:
    # apt would not upgrade what is installed.
    packages = {"postgresql_client": ("15+248", "18+287"), "postgresql_client_17": (NONE, "17.6-1.pgdg12+1")}
    assert fault(17, **packages).endswith("set airflow_database_client_package to postgresql-client-17.")
    assert fault(17, "postgresql-client-17", **packages) == ""


def test_one_that_came_otherwise_does_as_well() -> None:
    installed = ("17.6-1.pgdg12+1", "17.6-1.pgdg12+1")
    assert fault(17, postgresql_client=(NONE, "15+248"), postgresql_client_17=installed) == ""


def test_a_package_that_apt_does_not_know_is_named() -> None:
    said = fault(17, "postgresql-client-17")
    assert "airflow_database_client_package, postgresql-client-17, is unknown to apt on one" in said
    assert "common_apt_repositories" in said


def test_a_package_of_another_name_is_left_to_its_pg_dump() -> None:
    assert fault(17, "pg-tools", pg_tools=(NONE, "1.0")) == ""
