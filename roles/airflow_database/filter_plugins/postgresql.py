"""A filter that says whether PostgreSQL's client suits its server."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

PREFIX = "postgresql-client"
# Without the epoch of a package: 15+248+deb12u1, and 17.6-0+deb13u1.
MAJOR = re.compile(r"(?:\d+:)?(\d+)")


class Package(NamedTuple):
    """What apt knows of a package."""

    is_installed: bool
    major: int


def _packages(policy: str) -> dict[str, Package]:
    """Read what `apt-cache policy` prints of packages, without those that are not to be had."""
    found = {}
    for name, installed, candidate in re.findall(
        r"^(\S+):\n  Installed: (.*)\n  Candidate: (.*)$", policy, re.MULTILINE
    ):
        # What is installed stays as it is.
        version = candidate if installed == "(none)" else installed
        if major := MAJOR.match(version):
            found[name] = Package(installed != "(none)", int(major[1]))
    return found


def client_names(package: str, server: int) -> list[str]:
    """Name the packages to ask apt about.

    Args:
        package: The variable `airflow_database_client_package`.
        server: The server's major version.

    Returns:
        Them: the package, and the one that is as new as the server.
    """
    return sorted({package, f"{PREFIX}-{server}"})


def client_fault(policy: str, package: str, server: int, host: str) -> str:
    """Say why a client cannot dump the database of a server.

    Args:
        policy: What `apt-cache policy` prints of `client_names`.
        package: The variable `airflow_database_client_package`.
        server: The server's major version.
        host: Where the client is installed.

    Returns:
        What is wrong and what to do, or nothing.
    """
    packages, wanted = _packages(policy), f"{PREFIX}-{server}"
    # Of several that are installed, Debian's pg_dump is the newest. The version of another package says nothing of it.
    if not package.startswith(PREFIX) or (wanted in packages and packages[wanted].is_installed):
        return ""
    if package in packages and packages[package].major >= server:
        return ""
    said = f"brings pg_dump {packages[package].major}" if package in packages else "is unknown to apt"
    advice = f"set airflow_database_client_package to {wanted}"
    if wanted not in packages:
        advice += (
            ", name a repository that has it in common_apt_repositories, such as PostgreSQL's own, and run make site"
        )
    return (
        f"The database's server is PostgreSQL {server}, and airflow_database_client_package, {package}, {said} "
        f"on {host}, so that the database cannot be dumped before a migration: {advice}."
    )


class FilterModule:
    """Ansible's way to find the filters."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Give each filter's name and function.

        Returns:
            Them.
        """
        return {"client_fault": client_fault, "client_names": client_names}
