"""Runs `make secrets`, and what guards a deployment, in a copy of the project. No host is there."""

import base64
import json
import os
import pty
import re
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pristine
import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret

PROJECT = Path(__file__).parents[2]
VAULT = "group_vars/preprod/vault.yml"
KEY = ".vault/preprod"
ANSWERS = {
    "vault_airflow_database_password": '{{ it\'s }} "odd" {% \\é',
    "vault_airflow_logging_access_key": "the-access-key",
    "vault_airflow_logging_secret_key": "the-secret-key",
}
GIVEN = {name.upper(): value for name, value in ANSWERS.items()}
GENERATED = {
    "vault_airflow_fernet_key",
    "vault_airflow_jwt_secret",
    "vault_airflow_secret_key",
    "vault_airflow_database_admin_password",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Copy what the commands read, with a vault of prod that no run for preprod may open."""
    pristine.copy(
        tmp_path,
        *(
            "inventories",
            "group_vars",
            "playbooks",
            "Makefile",
            "ansible.cfg",
            "bin/project.py",
            "pyproject.toml",
            "dags",
        ),
    )
    (tmp_path / "roles").symlink_to(PROJECT / "roles")
    write(tmp_path / "bin/setup", "#!/bin/sh\n", 0o755)
    write(tmp_path / "group_vars/prod/vault.yml", encrypt("vault_x: x", "prod's own"))
    return tmp_path


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def encrypt(text: str, password: str) -> str:
    return VaultLib().encrypt(text, VaultSecret(password.encode())).decode()


def decrypt(project: Path, password: str) -> str:
    return VaultLib([("default", VaultSecret(password.encode()))]).decrypt((project / VAULT).read_text()).decode()


def values(text: str) -> dict[str, str]:
    return {name: json.loads(value) for name, value in re.findall(r'^(\w+): !unsafe (".*")$', text, re.MULTILINE)}


def run(
    project: Path, command: str, variables: dict[str, str] | None = None, answers: list[str] | None = None
) -> tuple[int, str]:
    """Run a command, on a terminal if there are answers to type, and tell how it ended and what it said."""
    ours = {name: value for name, value in os.environ.items() if not re.match("ANSIBLE|VAULT|MAKE|MFLAGS|ENV$", name)}
    terminal, inside = pty.openpty()
    with subprocess.Popen(
        [*(["setsid", "--ctty"] if answers else []), *command.split()],
        env=ours | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_VERBOSITY": "3"} | (variables or {}),
        cwd=project,
        stdin=inside if answers else subprocess.DEVNULL,
        stdout=inside,
        stderr=inside,
    ) as process:
        os.close(inside)
        said = converse(terminal, answers or [])
    os.close(terminal)
    assert "DEPRECATION" not in said
    return process.returncode, " ".join(said.split())


def converse(terminal: int, answers: list[str]) -> str:
    """Answer each prompt, once it has turned the echo off, and return all that was said."""
    said, asked = b"", 0
    with suppress(OSError):  # it is how a terminal ends
        while chunk := os.read(terminal, 4096):
            said += chunk
            while asked < len(re.findall(rb"\(output is hidden\):|Vault password: ", said)):
                while termios.tcgetattr(terminal)[3] & termios.ECHO:
                    time.sleep(0.01)
                time.sleep(0.2)  # Ansible throws away what was typed before
                os.write(terminal, f"{answers[asked]}\r".encode())
                asked += 1
    assert asked == len(answers), said.decode()
    return said.decode()


@contextmanager
def command_lines() -> Iterator[set[str]]:
    """Collect the command lines of this machine while something runs, also with the folder that each runs in."""
    seen: set[str] = set()
    stop = threading.Event()

    def collect() -> None:
        while not stop.wait(0.01):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):  # it has ended
                    line = (process / "cmdline").read_text(errors="replace")
                    seen.add(line)
                    seen.add(f"{(process / 'cwd').readlink()}: {line}")

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def test_a_vault_is_made_and_nothing_secret_shows(project: Path) -> None:
    kept = {"ANSIBLE_REMOTE_TEMP": str(project / "tmp"), "ANSIBLE_KEEP_REMOTE_FILES": "1"}
    with command_lines() as seen:
        code, said = run(project, "make secrets ENV=preprod", GIVEN | kept)
    assert code == 0, said
    assert "changed=1" in said
    assert f"The password of {VAULT} is in {KEY}, on this machine alone." in said
    assert "Put a copy into your team's password manager, and give one to CI" in said
    modes = {name: (project / name).stat().st_mode & 0o777 for name in (VAULT, ".vault", KEY)}
    assert modes == {VAULT: 0o600, ".vault": 0o700, KEY: 0o600}

    password = (project / KEY).read_text().strip()
    found = values(decrypt(project, password))
    assert found.keys() == GENERATED | ANSWERS.keys()
    assert len(set(found.values())) == len(found)
    assert len(found["vault_airflow_fernet_key"]) == 44
    assert len(base64.urlsafe_b64decode(found["vault_airflow_fernet_key"])) == 32
    assert len(found["vault_airflow_jwt_secret"]) >= 64

    written = {path: path.read_text() for path in project.rglob("*") if path.is_file()}
    assert written.pop(project / KEY) == f"{password}\n"
    assert any(path.is_relative_to(project / "tmp") for path in written)
    # Other tests run it at the same time, each in a folder of its own.
    assert any(line.startswith(f"{project}: ") and "playbooks/secrets.yml" in line for line in seen)
    for secret in (password, *found.values()):
        assert not [text for text in (said, *seen, *written.values()) if secret in text]

    # A password may look like a template.
    names = ", ".join(name.removeprefix("vault_") for name in ANSWERS)
    command = f"ansible lvao-preprod -i inventories/preprod -m debug -a msg={{{{[{names}]|to_json|b64encode}}}}"
    code, said = run(project, command.replace(", ", ","), {"ANSIBLE_VAULT_PASSWORD_FILE": KEY})
    assert json.loads(base64.b64decode(said.split("msg: ")[1])) == list(ANSWERS.values())


def test_what_is_in_the_vault_stays(project: Path) -> None:
    kept = "# Ours.\nvault_airflow_fernet_key: the-key\nvault_extra: !unsafe '{{ x }}'\nvault_more:\n  - 1\n"
    write(project / KEY, "#!/bin/sh\necho 'from a script'\n", 0o700)
    write(project / VAULT, encrypt(f'vault_airflow_jwt_secret: ""\n{kept}', "from a script"), 0o644)
    code, said = run(project, "make secrets ENV=preprod", GIVEN)
    assert code == 0, said
    text = decrypt(project, "from a script")
    assert text.startswith(kept)
    assert values(text).keys() == GENERATED - {"vault_airflow_fernet_key"} | ANSWERS.keys()

    before = (project / VAULT).read_bytes(), (project / VAULT).stat()
    code, said = run(project, "make secrets ENV=preprod")
    assert code == 0, said
    assert "changed=0" in said
    assert "the-key" not in said
    assert ((project / VAULT).read_bytes(), (project / VAULT).stat()) == before


def test_a_person_is_asked(project: Path) -> None:
    answers = ["the-password", "the-password", *ANSWERS.values()]
    code, said = run(project, "make secrets ENV=preprod", {"ANSIBLE_ASK_VAULT_PASS": "true"}, answers)
    assert code == 0, said
    assert not [answer for answer in answers if answer in said]
    assert values(decrypt(project, "the-password")).items() >= ANSWERS.items()
    assert not (project / ".vault").exists()

    # With a vault there, and its password nowhere.
    code, said = run(project, "make secrets ENV=preprod", answers=["the-password"])
    assert "changed=0" in said
    code, said = run(project, "make deploy ENV=preprod", answers=["the-password"])
    assert "a placeholder" in said


REFUSED = {
    "nothing to ask on": (
        ("preprod", {"VAULT_AIRFLOW_LOGGING_ACCESS_KEY": "x"}, []),
        "Without an answer: vault_airflow_database_password, vault_airflow_logging_secret_key. Nothing is written. "
        "Answer in a terminal, or set environment variables of the same names in capitals: "
        "VAULT_AIRFLOW_DATABASE_PASSWORD, VAULT_AIRFLOW_LOGGING_SECRET_KEY.",
    ),
    "an empty answer": (
        ("preprod", {}, ["x", " ", "x"]),
        "Without an answer: vault_airflow_logging_access_key. Nothing is written.",
    ),
    "two passwords": (
        ("preprod", {"ANSIBLE_ASK_VAULT_PASS": "true"}, ["x", "y"]),
        f"There is no password for {VAULT}, or there are two that differ",
    ),
    "development": (
        ("development", {}, []),
        "The environment development keeps nothing in a vault: no value in group_vars/development/vars.yml",
    ),
    "no environment": (("nope", {}, []), "there is no environment 'nope': ENV is one of development preprod prod"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_clear_and_writes_nothing(project: Path, case: str) -> None:
    (environment, variables, answers), message = REFUSED[case]
    code, said = run(project, f"make secrets ENV={environment}", variables, answers)
    assert code == 2, said
    assert message in said
    assert not list(project.glob(f"group_vars/{environment}/vault.yml"))
    assert not (project / ".vault").exists()


@pytest.mark.parametrize(("text", "password"), [("vault_x: x", "wrong"), ("vault_x: !secret y: z", "right")])
def test_a_vault_that_cannot_be_read_stays(project: Path, text: str, password: str) -> None:
    write(project / KEY, password)
    write(project / VAULT, encrypt(text, "right"))
    before = (project / VAULT).read_bytes()
    code, said = run(project, "make secrets ENV=preprod", GIVEN)
    assert code == 2, said
    assert f"{VAULT} cannot be read: the password is not its own, or it holds something else than variables." in said
    assert "!secret" not in said
    assert (project / VAULT).read_bytes() == before


@pytest.mark.parametrize("name", ["preprod", "prod"])
def test_the_example_is_refused_before_any_connection(project: Path, name: str) -> None:
    (project / f"group_vars/{name}/vault.yml").unlink(missing_ok=True)
    misspelt = "--extra-vars reverse_proxy_source=192.0.2.0/24 --extra-vars firewall_ssh_source=192.0.2.0/24"
    code, said = run(project, f"ansible-playbook -i inventories/{name} playbooks/site.yml --tags common {misspelt}")
    assert code == 2, said
    assert said.count("[ERROR]") == 1
    for message in (
        "No role has a variable firewall_ssh_source, reverse_proxy_source: the README of each in roles/ lists",
        f"ansible_host of lvao-{name} is {name}.example.org, a placeholder: "
        f"put the host's address into inventories/{name}/hosts.yml.",
        f"airflow_database_host is {name}-database.example.org, a placeholder: "
        f"put the database's address into group_vars/{name}/vars.yml.",
        f"group_vars/{name}/vault.yml, which group_vars/{name}/vars.yml takes secrets from, is missing: "
        f"run make secrets ENV={name}.",
    ):
        assert message in said


def use_real_addresses(project: Path) -> None:
    for name, real in (("inventories/preprod/hosts.yml", "localhost"), ("group_vars/preprod/vars.yml", "db.internal")):
        example = (project / name).read_text()
        write(project / name, re.sub(r"[\w-]+\.example\.org", real, example))


def test_a_vault_that_lacks_a_name_is_refused(project: Path) -> None:
    use_real_addresses(project)
    write(project / KEY, "ours")
    write(project / VAULT, encrypt("".join(f"{name}: x\n" for name in GENERATED), "ours"))
    code, said = run(project, "make deploy ENV=preprod")
    assert code == 2, said
    lacking = "vault_airflow_database_password, vault_airflow_logging_access_key, vault_airflow_logging_secret_key"
    assert f"{VAULT} lacks {lacking}: run make secrets ENV=preprod." in said


def test_several_hosts_say_where_they_reach_each_other(project: Path) -> None:
    use_real_addresses(project)
    hosts = project / "inventories/preprod/hosts.yml"
    write(
        hosts, hosts.read_text().replace("webserver:\n  hosts: {lvao-preprod: }", "webserver:\n  hosts: {lvao-web: }")
    )
    code, said = run(project, "ansible-playbook -i inventories/preprod playbooks/site.yml")
    assert code == 2, said
    assert "lvao_private_address of lvao-preprod is missing: put the address at which" in said
    for address, refused in (("192.0.2.8", True), ("172.32.0.1", True), ("172.16.0.1", False), ("fd00::3", False)):
        known = f"--extra-vars lvao_private_address={address}"
        _, said = run(project, f"ansible-playbook -i inventories/preprod playbooks/site.yml {known}")
        said_so = f"lvao_private_address of lvao-preprod is {address}, which is no address of a private network" in said
        assert said_so == refused, said

    code, said = run(project, "ansible-playbook -i inventories/preprod --limit lvao-preprod playbooks/deploy.yml")
    assert code == 2, said
    assert "--limit leaves out lvao-web: the hosts that run Airflow are deployed together, on one release." in said


def test_a_vault_in_clear_is_refused_until_make_secrets_encrypts_it(project: Path) -> None:
    use_real_addresses(project)
    text = "".join(f"{name}: x\n" for name in GENERATED | ANSWERS.keys())
    write(project / VAULT, text, 0o644)
    write(project / "password", "ours\n")
    variables = {"ANSIBLE_VAULT_PASSWORD_FILE": "password", "ANSIBLE_REMOTE_PORT": "1"}

    code, said = run(project, "make canary ENV=preprod", variables)
    assert f"{VAULT}, which group_vars/preprod/vars.yml takes secrets from, is not encrypted: run make secrets" in said
    assert "a placeholder" not in said

    code, said = run(project, "make secrets ENV=preprod", variables)
    assert code == 0, said
    assert decrypt(project, "ours") == text
    assert base64.b64encode(text.encode()).decode() not in said
    assert not (project / ".vault").exists()

    code, said = run(project, "make deploy ENV=preprod", variables)
    assert "unreachable=1" in said


NEVER_ROTATED = {
    "no secret": (
        "",
        "SECRET is '': it must be one of fernet_key, jwt_secret, secret_key, admin_password, database_password, "
        "bucket_keys, or several of them with commas between.",
    ),
    "an unknown one": ("fernet_key,nope", "SECRET is 'fernet_key,nope': it must be one of fernet_key, jwt_secret,"),
    "keys that nobody says": (
        "bucket_keys",
        "Without an answer: vault_airflow_logging_access_key, vault_airflow_logging_secret_key. Nothing is written.",
    ),
    "one that comes from elsewhere": (
        "jwt_secret,secret_key",
        "group_vars/preprod/vars.yml does not take vault_airflow_secret_key from its vault: "
        "renew it where it comes from, then make deploy ENV=preprod.",
    ),
    "a host that nobody reaches": ("jwt_secret,database_password", "unreachable=1"),
}


@pytest.mark.parametrize("case", NEVER_ROTATED)
def test_a_rotation_that_cannot_be_leaves_the_vault_alone(project: Path, case: str) -> None:
    secret, message = NEVER_ROTATED[case]
    use_real_addresses(project)
    write(project / KEY, "ours")
    write(project / VAULT, encrypt("".join(f"{name}: x\n" for name in GENERATED | ANSWERS.keys()), "ours"))
    if case == "one that comes from elsewhere":
        variables = project / "group_vars/preprod/vars.yml"
        write(variables, variables.read_text().replace("{{ vault_airflow_secret_key }}", "elsewhere"))
    before = (project / VAULT).read_bytes()
    code, said = run(project, f"make rotate ENV=preprod SECRET={secret}", {"ANSIBLE_REMOTE_PORT": "1"})
    assert code == 2, said
    assert message in said
    assert (project / VAULT).read_bytes() == before


def test_a_rotation_wants_a_vault(project: Path) -> None:
    use_real_addresses(project)
    code, said = run(project, "make rotate ENV=preprod SECRET=jwt_secret")
    assert code == 2, said
    assert f"{VAULT}, which group_vars/preprod/vars.yml takes secrets from, is missing: run make secrets" in said


def test_a_deploy_waits_for_a_rotation_that_was_cut_off(project: Path) -> None:
    use_real_addresses(project)
    write(project / KEY, "ours")
    names = [*GENERATED, *ANSWERS, "vault_airflow_database_password_before"]
    write(project / VAULT, encrypt("".join(f"{name}: x\n" for name in names), "ours"))
    code, said = run(project, "make deploy ENV=preprod", {"ANSIBLE_REMOTE_PORT": "1"})
    assert code == 2, said
    assert f"{VAULT} holds vault_airflow_database_password_before: a rotation was cut off." in said
    assert "make rotate ENV=preprod SECRET=database_password." in said
    code, said = run(project, "make rotate ENV=preprod SECRET=database_password", {"ANSIBLE_REMOTE_PORT": "1"})
    assert "unreachable=1" in said


def test_a_value_of_several_lines_tears_no_other(project: Path) -> None:
    text = "vault_more: x\nvault_airflow_jwt_secret:\n  ''\n"
    write(project / KEY, "ours")
    write(project / VAULT, encrypt(text, "ours"))
    code, said = run(project, "make secrets ENV=preprod", GIVEN)
    assert code == 2, said
    assert (
        f"{VAULT} has a value of several lines: put what it has of vault_airflow_jwt_secret on one line each." in said
    )
    assert decrypt(project, "ours") == text


def test_each_rotation_says_what_a_thief_could_have_left() -> None:
    plays = yaml.safe_load((PROJECT / "playbooks/rotate.yml").read_text())
    (values,) = [play["vars"] for play in plays if "vars" in play]
    assert values["rotate_known"].keys() == values["rotate_traces"].keys()
    page = (PROJECT / "docs/after-a-leak.md").read_text()
    assert [name for name in values["rotate_known"] if f"`{name}`" not in page] == []
