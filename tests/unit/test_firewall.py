"""Which networks and ports the firewall's filters find, and what an environment's hosts open to each other."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pristine
import pytest

PROJECT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("firewall", PROJECT / "roles/firewall/filter_plugins/firewall.py")
FILTERS = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(FILTERS)
TWO_HOSTS = """
airflow:
  children:
    preprod:
      hosts:
        one: {lvao_private_address: 10.0.0.2}
        two: {lvao_private_address: "fd00::3"}
scheduler: {hosts: {one: }}
webserver: {hosts: {two: }}
"""


def test_what_is_no_address_and_no_network_is_found() -> None:
    right = ["192.0.2.7", "192.0.2.0/24", "0.0.0.0/0", "2001:db8::1", "2001:db8::/32", "::/0"]
    wrong = ["192.0.2.7/24", "192.0.2.0/33", "192.0.2", "example.org", "2001:db8::1/32", "", "7", "192.0.2.1-9"]
    assert FILTERS.wrong_sources(right + wrong) == wrong
    assert FILTERS.wrong_sources([7, None]) == ["7", "None"]


def test_what_is_no_port_and_no_range_is_found() -> None:
    right = [1, "22", 65535, "9100-9110", "1-65535", "22-22"]
    wrong = ["0", "65536", "-1", "9110-9100", "0-9", "60000-70000", "9100-", "-9110", "1-2-3", "9100 - 9110", "ssh", ""]
    assert FILTERS.wrong_ports(right + wrong) == wrong
    assert FILTERS.wrong_ports([22.5, None, "22\n", "٢٢"]) == ["22.5", "None", "22\n", "٢٢"]


@pytest.mark.parametrize("value", ["443", "192.0.2.7", 443, None, {"a": 1}])
def test_what_is_no_list_is_wrong_as_a_whole(value: object) -> None:
    assert FILTERS.wrong_ports(value) == FILTERS.wrong_sources(value) == [str(value)]


def test_ports_are_in_order_and_do_not_overlap() -> None:
    wanted = [8794, "9105-9120", "161", "9100-9110", 8793, 161, "9102-9103", "22-22"]
    assert FILTERS.ports(wanted) == ["22", "161", "8793", "8794", "9100-9120"]
    assert FILTERS.ports(reversed(wanted)) == FILTERS.ports(wanted)
    assert FILTERS.ports([]) == []


def test_networks_of_a_version_do_not_overlap() -> None:
    sources = ["10.1.0.0/16", "2001:db8::1", "10.0.0.0/8", "192.0.2.7", "192.0.2.7/32", "2001:db8::/32"]
    assert FILTERS.networks(sources, 4) == ["10.0.0.0/8", "192.0.2.7/32"]
    assert FILTERS.networks(sources, 6) == ["2001:db8::/32"]
    assert FILTERS.networks([], 6) == []


@pytest.mark.parametrize(
    ("address", "port", "admitted"),
    [
        ("192.0.2.7", "22", True),
        ("::ffff:192.0.2.7", "22", True),
        ("fe80::1%eth0", "22", True),
        ("198.51.100.7", "22", False),
        ("2001:db8::1", "22", False),
        ("192.0.2.7", "2222", False),
        ("2001:db8::1", "2222", True),
        ("203.0.113.7", "22", False),
        ("203.0.113.7", "2222", True),
        ("203.0.113.7", "2230", True),
        ("203.0.113.7", "2231", False),
    ],
)
def test_a_client_is_admitted_by_address_and_port(address: str, port: str, *, admitted: bool) -> None:
    rules = [
        {"ports": [22, "80"], "sources": ["192.0.2.0/24", "fe80::/10"]},
        {"ports": [2222], "sources": ["::/0"]},
        {"ports": [], "sources": ["0.0.0.0/0"]},
        {"ports": [22], "sources": ["0.0.0.0/0", "::/0"], "protocol": "udp"},
        {"ports": ["2220-2230"], "sources": ["203.0.113.7"], "protocol": "tcp"},
    ]
    assert FILTERS.admits(rules, address, port) is admitted


def openings(inventory: Path) -> dict[str, dict[int, list[str]]]:
    """Say what each host of an inventory opens: its ports, and to whom."""
    found = {}
    for host, (public, rules) in ask(inventory, "[firewall_public_ports | default([]), firewall_rules]").items():
        found[host.removeprefix("lvao-molecule-site-")] = {port: ["everybody"] for port in public} | {
            int(port): rule["sources"] for rule in rules for port in rule["ports"]
        }
    return found


def ask(inventory: Path, expression: str) -> dict[str, Any]:
    """Ask Ansible for the value of an expression on each host of an inventory."""
    message = f"msg={{{{ {expression} | to_json }}}}"
    ended = subprocess.run(
        ["ansible", "-i", inventory, "all", "-m", "ansible.builtin.debug", "-a", message],
        env=os.environ | {"ANSIBLE_LOAD_CALLBACK_PLUGINS": "true", "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
        cwd=inventory,  # for it reads the group_vars that are here, too
        text=True,
        capture_output=True,
        check=True,
    )
    results = json.loads(ended.stdout)["plays"][0]["tasks"][0]["hosts"]
    return {host: json.loads(result["msg"]) for host, result in results.items()}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Copy the inventories and their variables."""
    pristine.copy(tmp_path, "inventories", "molecule/inventories", "group_vars")
    return tmp_path


@pytest.mark.parametrize("name", ["preprod", "prod"])
def test_one_host_opens_https_alone(project: Path, name: str) -> None:
    assert list(openings(project / "inventories" / name).values()) == [{80: ["everybody"], 443: ["everybody"]}]


def test_a_developer_reaches_the_container(project: Path) -> None:
    assert openings(project / "inventories/development") == {"lvao-development": {8080: ["everybody"]}}


def test_two_hosts_open_what_they_need_of_each_other(project: Path) -> None:
    inventory = project / "inventories/preprod"
    (inventory / "hosts.yml").write_text(TWO_HOSTS)
    assert openings(inventory) == {
        "one": {8793: ["fd00::3"], 8794: ["fd00::3"]},
        "two": {80: ["everybody"], 443: ["everybody"], 8443: ["10.0.0.2"]},
    }


def test_only_the_hosts_of_the_environment_have_no_bound_of_connections(project: Path) -> None:
    unlimited = ask(project / "molecule/inventories/site", "firewall_unlimited_sources")
    assert list(unlimited.values()) == [["172.29.213.11", "172.29.213.12"]] * 4
    assert list(ask(project / "inventories/preprod", "firewall_unlimited_sources").values()) == [[]]


def test_a_database_and_a_storage_are_open_to_the_hosts_of_airflow(project: Path) -> None:
    airflow = ["172.29.213.11", "172.29.213.12"]
    assert openings(project / "molecule/inventories/site") == {
        "scheduler": {8793: airflow[1:], 8794: airflow[1:]},
        "webserver": {80: ["everybody"], 443: ["everybody"], 8443: airflow[:1]},
        "database": {5432: airflow},
        "storage": {8090: airflow},
    }
