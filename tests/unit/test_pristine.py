"""Whether the tests pass in the checkout of a site, which has put in addresses and secrets of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pristine
import pytest
from pristine import ENVIRONMENTS, OURS, PROJECT

# What reads environments or workflows: each kind once, for it takes its time.
READERS = (
    "test_pristine.py",
    "test_firewall.py::test_one_host_opens_https_alone[preprod]",
    "test_preflight.py::test_each_environment_has_a_database_and_a_bucket_of_its_own[preprod]",
    "test_secrets.py::test_the_example_is_refused_before_any_connection[preprod]",
    "test_delivery.py::test_each_step_is_a_command_of_the_readme_or_an_action_pinned_by_commit",
    "test_delivery.py::test_nothing_may_be_written_but_the_comment",
)
PLACEHOLDER = re.compile(r"\b(?:ansible_host|airflow_database_host|reverse_proxy_domain): (?:\S+\.)?example\.org\b")
ADDED = {
    "group_vars/preprod/vault.yml": "$ANSIBLE_VAULT;1.1;AES256\n00\n",
    "group_vars/staging/vars.yml": "lvao_environment: staging\n",
    "inventories/preprod/database_certificate.txt": "-----BEGIN CERTIFICATE-----\n",
    "inventories/preprod/known_hosts.txt": "203.0.113.10 ssh-ed25519 AAAA\n",
    "inventories/preprod/host_vars/lvao-preprod.yml": "lvao_environment: elsewhere\n",
    "inventories/staging/hosts.yml": "airflow: {hosts: {lvao-staging: }}\n",
    ".github/workflows/cd_staging.yml": "jobs: {deploy: {steps: [{run: ./deploy}]}}\n",
}


def test_a_copy_has_nothing_of_a_site(tmp_path: Path) -> None:
    pristine.copy(tmp_path)
    for name in ENVIRONMENTS:
        for path, text in pristine.placeholders(name).items():
            assert (tmp_path / path).read_text() == text
        assert {path.name for path in (tmp_path / f"inventories/{name}").iterdir()} == {"group_vars", "hosts.yml"}
        assert {path.name for path in (tmp_path / f"group_vars/{name}").iterdir()} == {"vars.yml"}
        assert (tmp_path / f"inventories/{name}/group_vars/{name}/vars.yml").exists()
    for folder, names in OURS.items():
        there = {path.name for path in (tmp_path / folder).iterdir()}
        assert there == names | (set() if folder.startswith(".") else {*ENVIRONMENTS})


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_placeholder_that_a_site_has_left_is_the_one_that_the_tests_know(name: str) -> None:
    for path, text in pristine.placeholders(name).items():
        found, known = (set(PLACEHOLDER.findall(held)) for held in ((PROJECT / path).read_text(), text))
        assert found <= known


def test_they_pass_in_a_repository_of_a_site(tmp_path: Path) -> None:
    pristine.copy(tmp_path)
    for path, text in ADDED.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    boxes = re.findall(r"^```sh\n(.*?)^```$", (PROJECT / "docs/tutorial.md").read_text(), re.MULTILINE | re.DOTALL)
    (edits,) = [box for box in boxes if "sed " in box]
    given = {"SERVER": "203.0.113.10", "SERVER_USER": "root", "DATABASE": "10.0.0.20", "STORAGE": "https://s3.test"}
    subprocess.run(["bash", "-euc", f"{edits}git init --quiet"], cwd=tmp_path, env=os.environ | given, check=True)
    hosts = (tmp_path / "inventories/preprod/hosts.yml").read_text()
    assert "ansible_host: 203.0.113.10\n          ansible_user: root\n" in hosts
    variables = tmp_path / "group_vars/preprod/vars.yml"
    assert "reverse_proxy_domain: ''\n" in variables.read_text()
    assert "airflow_database_host: 10.0.0.20\n" in variables.read_text()
    added = 'airflow_env: {TOKEN: "{{ vault_token }}"}'
    variables.write_text(variables.read_text().replace("airflow_env: {}", added))

    this = f"tests/unit/test_pristine.py::{test_they_pass_in_a_repository_of_a_site.__name__}"
    command = [sys.executable, "-m", "pytest", "--quiet", f"--deselect={this}"]
    command += [f"tests/unit/{reader}" for reader in READERS]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
