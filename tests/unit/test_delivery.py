"""Runs what the workflows run, as far as it goes without a host, in a copy of the project; and reads the workflows."""

import os
import re
import subprocess
from pathlib import Path

import pristine
import pytest
import yaml
from test_secrets import ANSWERS, GENERATED, KEY, VAULT, encrypt, project, run, use_real_addresses, write

__all__ = ["project"]

PROJECT = Path(__file__).parents[2]
WORKFLOWS = {
    name: yaml.safe_load((PROJECT / f".github/workflows/{name}.yml").read_text()) for name in pristine.WORKFLOWS
}
JOBS = {f"{name}/{job}": what for name, workflow in WORKFLOWS.items() for job, what in workflow["jobs"].items()}
STEPS = [step for job in JOBS.values() for step in job.get("steps", [])]
GUARD = "bin/with-credentials make guard"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a key as CI has it."""
    return new_key(tmp_path_factory.mktemp("key"))


def new_key(folder: Path, phrase: str = "") -> str:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-f", folder / "key"]
    subprocess.run(command, check=True)
    return (folder / "key").read_text()


@pytest.fixture
def ready(project: Path, key: str) -> tuple[Path, dict[str, str]]:
    """Prepare preprod for a deploy, from the hosts' side too, and tell what CI knows of it."""
    for name in ("with-credentials", "plan", "mask"):
        write(project / f"bin/{name}", (PROJECT / f"bin/{name}").read_text(), 0o755)
    (project / ".venv").symlink_to(PROJECT / ".venv")
    use_real_addresses(project)
    write(
        project / VAULT, encrypt("".join(f"{name}: secret-of-{name}\n" for name in GENERATED | ANSWERS.keys()), "ours")
    )
    write(project / "inventories/preprod/known_hosts.txt", "localhost ssh-ed25519 AAAA\n")
    return project, {"ENV": "preprod", "SSH_PRIVATE_KEY": key, "VAULT_PASSWORD": "ours"}


def test_what_is_complete_may_be_deployed(ready: tuple[Path, dict[str, str]]) -> None:
    folder, known = ready
    # As a web form sends them.
    known |= {"SSH_PRIVATE_KEY": known["SSH_PRIVATE_KEY"].strip().replace("\n", "\r\n")}
    code, said = run(folder, GUARD, known)
    assert code == 0, said


def test_the_command_finds_files_that_it_alone_may_read_and_that_go_with_it(ready: tuple[Path, dict[str, str]]) -> None:
    folder, known = ready
    write(
        folder / "look",
        '#!/bin/sh\nstat --format \'%a %n\' "$ANSIBLE_PRIVATE_KEY_FILE" "$ANSIBLE_VAULT_PASSWORD_FILE"\n'
        'cmp "$ANSIBLE_PRIVATE_KEY_FILE" expected || exit 1\nenv\nexit 7\n',
        0o755,
    )
    write(folder / "expected", known["SSH_PRIVATE_KEY"])
    code, said = run(folder, "bin/with-credentials ./look", known)
    assert code == 7, said
    found = re.findall(r"\b600 (\S+)", said)
    assert len(found) == 2
    assert not [path for path in found if Path(path).exists() or Path(path).parent.exists()]
    assert "PRIVATE KEY-----" not in said


SETTINGS = "add it in the repository's settings, Environments, preprod"
REFUSED = {
    "no key": (
        {"SSH_PRIVATE_KEY": ""},
        f"the secret SSH_PRIVATE_KEY of the environment 'preprod' is missing: {SETTINGS}",
    ),
    "no password": (
        {"VAULT_PASSWORD": ""},
        f"the secret VAULT_PASSWORD of the environment 'preprod' is missing: {SETTINGS}",
    ),
    "half a key": (
        {"SSH_PRIVATE_KEY": "-----BEGIN"},
        "the secret SSH_PRIVATE_KEY is not a private key, or has a passphrase",
    ),
    "another password": (
        {"VAULT_PASSWORD": "theirs"},
        f"the secret VAULT_PASSWORD does not open {VAULT}: it is what {KEY} holds",
    ),
    "no key, in an environment of another name": (
        {"SSH_PRIVATE_KEY": "", "SECRETS_OF": "preprod-plan"},
        "the secret SSH_PRIVATE_KEY of the environment 'preprod-plan' is missing: add it in the repository's settings, "
        "Environments, preprod-plan",
    ),
    "no environment": ({"ENV": "nope"}, "there is no environment 'nope': ENV is one of development preprod prod"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_secret_that_is_missing_or_wrong_stops_it(ready: tuple[Path, dict[str, str]], case: str) -> None:
    folder, known = ready
    values, message = REFUSED[case]
    code, said = run(folder, "bin/with-credentials touch ran", known | values)
    assert code == 1, said
    assert f"with-credentials: {message}" in said
    assert not (folder / "ran").exists()


def test_a_key_with_a_passphrase_stops_it(ready: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, known = ready
    code, said = run(folder, GUARD, known | {"SSH_PRIVATE_KEY": new_key(tmp_path, "a phrase")})
    assert code == 1, said
    assert "or has a passphrase: make one by ssh-keygen -t ed25519 -N ''" in said


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "inventories/preprod/known_hosts.txt",
            "elsewhere ssh-ed25519 AAAA\n",
            "The key of lvao-preprod, at localhost, is unknown: run make known-hosts ENV=preprod, compare the key with "
            "the host's own, and commit inventories/preprod/known_hosts.txt.",
        ),
        (
            "inventories/preprod/hosts.yml",
            "airflow: {children: {preprod: {hosts: {lvao-preprod: {ansible_host: preprod.example.org}}}}}\n",
            "ansible_host of lvao-preprod is preprod.example.org, a placeholder: put the host's address into",
        ),
    ],
)
def test_what_the_hosts_lack_stops_it(ready: tuple[Path, dict[str, str]], name: str, text: str, message: str) -> None:
    folder, known = ready
    write(folder / name, text)
    code, said = run(folder, GUARD, known)
    assert code != 0, said
    assert message in said


def test_ssh_believes_the_pinned_keys_alone(ready: tuple[Path, dict[str, str]]) -> None:
    folder, _ = ready
    ask = "ansible -i inventories/preprod lvao-preprod -m debug -a var=ansible_ssh_common_args"
    variables = {"ANSIBLE_VAULT_PASSWORD_FILE": "password", "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml"}
    write(folder / "password", "ours")
    pinned = folder / "inventories/preprod/known_hosts.txt"
    said = run(folder, ask, variables)[1]
    assert "StrictHostKeyChecking=yes" in said
    assert f'UserKnownHostsFile="{pinned}"' in said.replace("\\", "").replace("''", "'")
    pinned.unlink()
    assert "StrictHostKeyChecking" not in run(folder, ask, variables)[1]


def test_a_host_that_says_no_key_is_named(ready: tuple[Path, dict[str, str]]) -> None:
    folder, _ = ready
    pinned = folder / "inventories/preprod/known_hosts.txt"
    before = pinned.read_text()
    hosts = folder / "inventories/preprod/hosts.yml"
    write(hosts, hosts.read_text().replace("ansible_user: debian", "ansible_port: 1"))
    write(folder / "password", "ours")
    code, said = run(folder, "make known-hosts ENV=preprod", {"ANSIBLE_VAULT_PASSWORD_FILE": "password"})
    assert code == 2, said
    assert "lvao-preprod says no key at localhost, port 1: see to it that it runs, that SSH gets there" in said
    assert pinned.read_text() == before


def test_a_plan_is_written_and_holds_no_secret(ready: tuple[Path, dict[str, str]]) -> None:
    folder, known = ready
    # It fails, for no host is there; and the error repeats what should not be there in clear.
    hosts = folder / "inventories/preprod/hosts.yml"
    user = 'ansible_user: "{{ vault_airflow_secret_key }}"\n          ansible_port: 1'
    write(hosts, hosts.read_text().replace("ansible_user: debian", user))
    write(folder / "inventories/preprod/known_hosts.txt", "[localhost]:1 ssh-ed25519 AAAA\n")
    code, said = run(folder, "bin/with-credentials make plan", known | {"ANSIBLE_VERBOSITY": "0"})
    assert code == 2, said
    page = (folder / ".cache/plan/preprod.md").read_text()
    assert page.startswith("### What this would change on preprod\n\n**It would fail**")
    assert "UNREACHABLE" in page
    assert "secret-of" not in said + page


@pytest.mark.parametrize("text", [None, "vault_airflow_secret_key: in-clear\n"])
def test_a_plan_without_an_encrypted_vault_says_what_to_do(
    ready: tuple[Path, dict[str, str]], text: str | None
) -> None:
    folder, known = ready
    (folder / VAULT).unlink() if text is None else write(folder / VAULT, text)
    code, said = run(folder, "bin/with-credentials make plan", known | {"ANSIBLE_VERBOSITY": "0"})
    assert code == 2, said
    what = "missing" if text is None else "not encrypted"
    wanted = f"{VAULT}, which group_vars/preprod/vars.yml takes secrets from, is {what}: run make secrets ENV=preprod."
    assert wanted in " ".join(said.split())
    assert "in-clear" not in said


def test_a_plan_names_the_environment_that_has_its_secrets() -> None:
    plan = JOBS["plan/plan"]
    assert plan["env"] == {"ENV": "preprod", "SECRETS_OF": plan["environment"]}


def test_a_plan_during_a_deploy_says_so(ready: tuple[Path, dict[str, str]]) -> None:
    folder, _ = ready
    write(folder / "password", "ours")
    locked = "#!/bin/sh\necho '[ERROR]: Task failed: Locked\nby somebody'\nexit 2\n"
    write(folder / "stub/ansible-playbook", locked, 0o755)
    known = {"PATH": f"{folder}/stub:{os.environ['PATH']}", "ANSIBLE_VAULT_PASSWORD_FILE": "password"}
    code, said = run(folder, "bin/plan preprod", known | {"ANSIBLE_VERBOSITY": "0"})
    assert code == 2, said
    assert "**A deploy is going on**" in said
    assert "It would fail" not in said


@pytest.mark.parametrize("page", ["### What this would change", None])
def test_a_pull_request_is_told_even_that_its_plan_did_not_run(tmp_path: Path, page: str | None) -> None:
    post = JOBS["plan/post"]
    assert "!cancelled()" in post["if"]
    download, comment = post["steps"]
    assert download["continue-on-error"] is True
    write(tmp_path / "stub/gh", '#!/bin/sh\necho "$*:"\ncat preprod.md\n', 0o755)
    write(tmp_path / "step", comment["run"])
    if page:
        write(tmp_path / "preprod.md", page)
    known = {"PATH": f"{tmp_path}/stub:{os.environ['PATH']}", "NUMBER": "7", "LOG": "https://log.test"}
    code, said = run(tmp_path, "bash -e step", known)
    assert code == 0, said
    assert said.startswith("pr comment 7 ")
    assert said.endswith(page or "The plan did not run: see [its log](https://log.test).")


def test_a_plan_is_made_where_there_are_secrets_for_it() -> None:
    condition = JOBS["plan/plan"]["if"]
    assert "head.repo.full_name == github.repository" in condition
    assert "github.actor != 'dependabot[bot]'" in condition


def mask(text: str, secrets: object, folder: Path) -> str:
    (folder / "secrets.yml").write_text(yaml.safe_dump(secrets))
    command = [PROJECT / "bin/mask", folder / "secrets.yml"]
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout


def test_secrets_are_masked_however_they_are_spelt(tmp_path: Path) -> None:
    secrets = {
        "a": 'p@ss/wörd "x"',
        "b": {"c": ["longer-abcd", "abcd"]},
        "d": 31415926,
        "e": "first\nsecond\n",
        "f": "abc",
    }
    said = (
        'p@ss/wörd "x", p%40ss/w%C3%B6rd%20%22x%22, p%40ss%2Fw%C3%B6rd+%22x%22, {"k": "p@ss/wörd \\"x\\""}, longer-abcd'
    )
    assert mask(said, secrets, tmp_path) == '***, ***, ***, {"k": "***"}, ***'
    assert mask("31415926 first second abc", secrets, tmp_path) == "*** *** *** abc"
    assert mask("as it is\n", {}, tmp_path) == "as it is\n"


def test_each_step_is_a_command_of_the_readme_or_an_action_pinned_by_commit() -> None:
    assert len(STEPS) > 10
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for step in STEPS:
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
        elif "gh pr comment" not in step["run"]:
            called = re.fullmatch(r'(?:bin/with-credentials )?make ("\$TARGET"|[a-z-]+)', step["run"])
            assert called, step
            assert called[1] in {'"$TARGET"', *targets}


def test_secrets_reach_the_steps_alone_that_connect() -> None:
    for step in STEPS:
        connects = step.get("run", "").startswith("bin/with-credentials")
        # What checks out another repository has the key of that one alone.
        known = str(step).replace("secrets.PLATFORM_KEY", "") if "checkout" in step.get("uses", "") else str(step)
        assert ("secrets." in known) == connects, step
    for job in JOBS.values():
        assert "secrets." not in str({name: what for name, what in job.items() if name != "steps"})
        assert not any("${{" in step.get("run", "") for step in job.get("steps", []))


def test_what_has_secrets_runs_nothing_that_other_jobs_have_cached() -> None:
    with_secrets = {name: job for name, job in JOBS.items() if "environment" in job}
    assert with_secrets.keys() == {"deploy/deploy", "plan/plan", "project_deploy/deploy"}
    assert not [step for job in with_secrets.values() for step in job["steps"] if "cache" in step.get("uses", "")]


def test_nothing_may_be_written_but_the_comment() -> None:
    for workflow in WORKFLOWS.values():
        assert workflow["permissions"] in ({}, {"contents": "read"})
    written = {name for name, job in JOBS.items() if "write" in str(job.get("permissions"))}
    assert written == {"plan/post"}
    assert not [step for step in JOBS["plan/post"]["steps"] if "checkout" in str(step)]
    checkouts = [step for step in STEPS if "checkout" in step.get("uses", "")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_lint_finds_a_workflow_that_runs_what_a_stranger_writes(tmp_path: Path) -> None:
    said = subprocess.run(["make", "--dry-run", "lint"], cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    (command,) = (line for line in said.splitlines() if line.startswith("zizmor "))
    pristine.copy(tmp_path, ".github")
    zizmor = [PROJECT / ".venv/bin/zizmor", *command.split()[1:]]
    assert subprocess.run(zizmor, cwd=tmp_path, check=False).returncode == 0
    plan = tmp_path / ".github/workflows/plan.yml"
    plan.write_text(plan.read_text().replace("$NUMBER", "${{ github.event.pull_request.title }}"))
    ended = subprocess.run(zizmor, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert ended.returncode != 0
    assert "template-injection" in ended.stdout


def test_lint_leaves_the_teams_files_to_the_team(tmp_path: Path) -> None:
    pristine.copy(tmp_path)
    messy = {
        "dags/messy.py": "import os,sys\n",
        "dbt/models.yml": "a:   [1,2 ]\n",
        "scripts/messy.py": "import os,sys\n",
    }
    for name, content in messy.items():
        write(tmp_path / name, content)

    def failing() -> list[str]:
        linted = ["make", "--dry-run", "lint"]
        said = subprocess.run(linted, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        commands = [line for line in said.splitlines() if line.startswith(("ruff ", "yamllint "))]
        assert len(commands) == 2
        env = os.environ | {"PATH": f"{PROJECT / '.venv/bin'}:{os.environ['PATH']}"}
        return [
            line
            for line in commands
            if subprocess.run(["sh", "-c", line], cwd=tmp_path, env=env, check=False).returncode
        ]

    assert failing() == []
    write(tmp_path / "roles/airflow/tasks/messy.yml", "a:   [1,2 ]\n")
    write(tmp_path / "bin/messy.py", "import os,sys\n")
    assert len(failing()) == 2, "what is this project's is looked at"
    (tmp_path / "roles/airflow/tasks/messy.yml").unlink()
    (tmp_path / "bin/messy.py").unlink()
    write(tmp_path / "dags/ruff.toml", 'select = ["E401"]\n')
    (command,) = failing()
    assert command.startswith("ruff "), "a team that has rules is held to them"


def test_a_running_deploy_is_never_cancelled() -> None:
    for deploy in (JOBS["deploy/deploy"], JOBS["project_deploy/deploy"]):
        assert deploy["concurrency"] == {"group": "deploy-${{ inputs.environment }}", "cancel-in-progress": False}
        assert deploy["environment"] == "${{ inputs.environment }}"


@pytest.mark.parametrize("job", ["project_check/check", "project_deploy/deploy"])
def test_a_project_is_checked_out_where_its_commands_look_for_it(job: str) -> None:
    platform, project, command = JOBS[job]["steps"]
    assert platform["with"]["repository"] == "${{ inputs.platform }}"
    # That of the caller is what is checked out unless another is named.
    assert "repository" not in project["with"]
    assert JOBS[job]["env"]["LVAO_PROJECT"] == project["with"]["path"] + "/${{ inputs.folder }}"
    assert command["run"].split()[-2] == "make"


def test_ci_needs_no_other_repository() -> None:
    assert WORKFLOWS["ci"]["env"] == {"LVAO_PROJECT": "."}


def test_ci_runs_what_make_test_runs() -> None:
    scenarios = {path.parent.name for path in (PROJECT / "molecule").glob("*/molecule.yml")}
    matrix = JOBS["ci/molecule"]["strategy"]["matrix"]
    assert set(matrix["scenario"]) == scenarios - {"vagrant"}
    assert {"scenario": "site", "debian": 12} in matrix["include"]
    started = re.findall(r"SCENARIO=(\w+)", (PROJECT / "bin/test").read_text())
    assert sorted(started) == sorted(matrix["scenario"])
    targets = set(re.findall(r"^(?:start|run) [a-z]+ ([a-z-]+)", (PROJECT / "bin/test").read_text(), re.MULTILINE))
    assert set(JOBS["ci/fast"]["strategy"]["matrix"]["target"]) == targets
