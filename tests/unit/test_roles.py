"""What every role promises about its variables, and what its templates render."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

ROLES = Path(__file__).parents[2] / "roles"
NAMES = sorted(path.name for path in ROLES.iterdir() if path.is_dir())


def load(path: Path) -> dict:
    return yaml.safe_load(path.read_text()) or {} if path.exists() else {}


def inputs(role: str) -> dict:
    """Collect the options of a role, those of the entry points that other roles call left out."""
    specs = load(ROLES / role / "meta/argument_specs.yml")["argument_specs"]
    return {
        name: facts for entry in ("main", "canary") for name, facts in specs.get(entry, {}).get("options", {}).items()
    }


@pytest.mark.parametrize("role", NAMES)
def test_specs_and_defaults_say_the_same(role: str) -> None:
    options = inputs(role)
    declared = {name: option["default"] for name, option in options.items() if not option.get("required")}
    defaults = load(ROLES / role / "defaults/main.yml")
    assert declared == defaults
    assert all(name.startswith(f"{role}_") and option["description"] for name, option in options.items())


WRONG = {"int": "many", "bool": "maybe", "dict": "words", "list": {"a": 1}}
RULES = [
    (role, name, option)
    for role in NAMES
    for name, option in inputs(role).items()
    if option.get("required") or option["type"] in WRONG or "choices" in option
]


@pytest.mark.parametrize(("role", "name", "option"), RULES, ids=[name for _, name, _ in RULES])
def test_each_rule_refuses_what_breaks_it_and_names_the_variable(role: str, name: str, option: dict) -> None:
    # With the very validator that Ansible runs the specs through before a role.
    wrong = {} if option.get("required") else {name: WRONG.get(option["type"], "none of the choices")}
    errors = ArgumentSpecValidator({name: option}).validate(wrong).error_messages
    assert errors
    assert all(name in error for error in errors), errors


@pytest.mark.parametrize("role", NAMES)
def test_secrets_are_marked(role: str) -> None:
    options = inputs(role)
    secret = {name for name in options if name.endswith(("password", "secret", "secret_key", "fernet_key"))}
    assert secret <= {name for name, option in options.items() if option.get("no_log")}


@pytest.mark.parametrize(
    ("resolvers", "denied"),
    [
        (["127.0.0.53"], ["169.254.42.42", "fd00:42::42", "169.254.169.254", "fd00:ec2::254"]),
        (["169.254.169.254"], ["169.254.42.42", "fd00:42::42", "fd00:ec2::254"]),
    ],
)
def test_metadata_is_denied_where_no_name_server_is(tmp_path: Path, resolvers: list[str], denied: list[str]) -> None:
    facts = {"_ansible_facts_gathered": True, "ansible_dns": {"nameservers": resolvers}}
    (tmp_path / "s1_localhost").write_text(json.dumps({"__payload__": json.dumps(facts)}))
    files = ("airflow/defaults/main.yml", "airflow/vars/main/sandbox.yml")
    said = subprocess.run(
        [
            *("ansible", "localhost", "-m", "ansible.builtin.debug", "-a", "var=__airflow_sandbox.IPAddressDeny"),
            *(argument for file in files for argument in ("-e", f"@{ROLES / file}")),
        ],
        env=os.environ
        | {
            "ANSIBLE_CACHE_PLUGIN": "jsonfile",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(tmp_path),
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        },
        check=True,
        text=True,
        capture_output=True,
    ).stdout
    assert json.loads(said.partition("=>")[2])["__airflow_sandbox.IPAddressDeny"] == denied


def test_a_fragment_escapes_what_systemd_unescapes(tmp_path: Path) -> None:
    values = {"A": "plain", "B": "a b=c#d%e'f", "C": '"$`\\', "D": True, "E": {"json": "of a mapping"}}
    files = f"src={ROLES / 'airflow/templates/fragment.env.j2'} dest={tmp_path / 'out'}"
    subprocess.run(
        [
            "ansible",
            "localhost",
            "-m",
            "ansible.builtin.template",
            "-a",
            files,
            "-e",
            json.dumps({"item": {"env": values}}),
        ],
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "out").read_text().splitlines()[-5:] == [
        'A="plain"',
        'B="a b=c#d%e\'f"',
        r'C="\"\$\`\\"',
        'D="true"',
        r'E="{\"json\": \"of a mapping\"}"',
    ]
