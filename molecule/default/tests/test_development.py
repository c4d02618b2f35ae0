"""The container of a development environment: made once, and not taken from another checkout."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROJECT

pytestmark = pytest.mark.anywhere
NAME = "lvao-development-test"


@pytest.fixture
def inventory(tmp_path: Path) -> Iterator[Path]:
    """Write an inventory like development's, for a container of another name, which goes in the end."""
    host = f"{NAME}: {{ansible_connection: community.docker.docker}}"
    (tmp_path / "hosts.yml").write_text(f"airflow: {{children: {{development: {{hosts: {{{host}}}}}}}}}\n")
    (tmp_path / "group_vars").symlink_to(PROJECT / "group_vars")
    yield tmp_path
    docker("rm", "--force", "--volumes", NAME)


def docker(*arguments: str) -> None:
    subprocess.run(["docker", *arguments], check=True, capture_output=True)


def start(inventory: Path) -> subprocess.CompletedProcess[str]:
    """Start the container as `make dev` does, and stop there."""
    command = ["ansible-playbook", "-i", inventory, "playbooks/development.yml", "--tags", "container"]
    return subprocess.run([*command, "--skip-tags", "always"], cwd=PROJECT, text=True, capture_output=True, check=False)


def test_it_is_made_once(inventory: Path) -> None:
    for changed in (1, 0):
        ended = start(inventory)
        assert ended.returncode == 0, ended.stdout
        assert f"changed={changed} " in ended.stdout


def test_that_of_another_checkout_is_refused(inventory: Path) -> None:
    image = f"lvao-systemd:debian{os.environ.get('DEBIAN') or '13'}"
    docker("create", "--name", NAME, "--volume", "/srv/elsewhere/dags:/srv/dags:ro", image, "/sbin/init")
    ended = start(inventory)
    assert ended.returncode == 2, ended.stdout
    assert f"{NAME} runs the DAGs of another checkout, /srv/elsewhere:" in " ".join(ended.stdout.split())
