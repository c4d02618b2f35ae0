"""The way from an empty folder to prod: the tutorial, as it is written, then the workflows, as GitHub runs them.

The scheduler's host becomes preprod and the webserver's prod, each with a database and a bucket of its own. It comes
last, for the hosts are then no more what the other tests expect.
"""

import fnmatch
import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pristine
import pytest
import testinfra
import yaml
from conftest import PROJECT, run_with_airflow, value
from testinfra.host import Host

ADDRESSES = {"preprod": "172.29.213.11", "prod": "172.29.213.12"}
STORAGE = "http://172.29.213.14:8090"
DATABASE = "172.29.213.13"
HOSTS = {"preprod": "lvao-molecule-site-scheduler", "prod": "lvao-molecule-site-webserver"}
# Unless an earlier run of the tests has made them.
ROLE_AND_DATABASE = """
SELECT format('CREATE ROLE %I LOGIN PASSWORD ''a-password''', :'both')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'both') \\gexec
SELECT format('CREATE DATABASE %I OWNER %I', :'both', :'both')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'both') \\gexec
"""
PASSED = (".github/workflows/ci.yml",)


class Step(NamedTuple):
    """What became of a command."""

    job: str
    command: str
    status: int
    said: str


class Forge:
    """A stand-in for GitHub: it holds a repository, and runs its workflows when something is pushed there.

    It knows what this project's workflows use, and refuses the rest. Each job runs in a fresh clone.
    """

    def __init__(self, folder: Path, environments: dict[str, dict[str, str]], cache: Path) -> None:
        """Make an empty repository.

        Args:
            folder: Where to keep it.
            environments: Secrets of each environment.
            cache: uv's, in place of the packages' downloads.
        """
        self.origin = folder / "origin.git"
        self.folder, self.environments, self.cache = folder, environments, cache
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", self.origin], check=True)

    def push(self, ref: str, *, passed: tuple[str, ...] = ()) -> list[Step]:
        """Run what a push starts; after a step that fails, no other.

        Args:
            ref: What was pushed, such as `refs/heads/main`.
            passed: Called workflows that are taken to have passed, for they have been played elsewhere.

        Returns:
            The commands that ran.
        """
        kind, name = ref.removeprefix("refs/").split("/", 1)
        filters = {"heads": "branches", "tags": "tags"}[kind]
        files = self._git("ls-tree", "--name-only", ref, ".github/workflows/").split()
        steps: list[Step] = []
        for path in files:
            workflow = self._workflow(ref, path)
            # YAML 1.1 takes `on` for a truth value.
            event = (workflow[True] if isinstance(workflow[True], dict) else {}).get("push")
            if event and any(fnmatch.fnmatch(name, pattern) for pattern in event.get(filters, [])):
                steps += self._run(ref, workflow, {"github.ref": ref, "github.ref_name": name}, passed)
        return steps

    def start(self, ref: str, path: str, job: str) -> list[Step]:
        """Run a job of a workflow, whatever starts it there.

        Args:
            ref: What to run it on.
            path: The workflow's file.
            job: Its name.

        Returns:
            The commands that ran.
        """
        return list(self._job(ref, job, self._workflow(ref, path)["jobs"][job], {}))

    def _git(self, *arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=self.origin, check=True, capture_output=True, text=True).stdout

    def _workflow(self, ref: str, path: str) -> dict[Any, Any]:
        return yaml.safe_load(self._git("show", f"{ref}:{path}"))

    def _run(self, ref: str, workflow: dict[Any, Any], known: dict[str, str], passed: tuple[str, ...]) -> list[Step]:
        steps: list[Step] = []
        assert not workflow.keys() - {"name", True, "permissions", "concurrency", "jobs"}
        waiting = dict(workflow["jobs"])
        while waiting:
            # Those that it needs come first, also in our files.
            name = next(name for name, job in waiting.items() if not waiting.keys() & {*self._needs(job)})
            job = waiting.pop(name)
            assert not job.keys() & {"if", "strategy", "continue-on-error", "container", "services", "defaults"}, name
            if called := job.get("uses"):
                if called.removeprefix("$/") in passed:
                    continue
                assert job["secrets"] == "inherit", "secrets of environments reach called workflows only so"
                inputs = {f"inputs.{key}": self._expand(value, known) for key, value in job["with"].items()}
                steps += self._run(ref, self._workflow(ref, called.removeprefix("$/")), known | inputs, passed)
            else:
                steps += self._job(ref, name, job, known)
            if steps and steps[-1].status:
                break
        return steps

    @staticmethod
    def _needs(job: dict[str, Any]) -> list[str]:
        needs = job.get("needs", [])
        return [needs] if isinstance(needs, str) else needs

    def _job(self, ref: str, name: str, job: dict[str, Any], known: dict[str, str]) -> Iterator[Step]:
        environment = self._expand(job.get("environment", ""), known)
        secrets = {f"secrets.{key}": value for key, value in self.environments.get(environment, {}).items()}
        known = known | secrets
        with tempfile.TemporaryDirectory(dir=self.folder) as work:
            home, clone = Path(work, "home"), Path(work, "clone")
            (home / ".cache").mkdir(parents=True)
            (home / ".cache/uv").symlink_to(self.cache)
            # Nothing of this machine's environment but what tells how the network is reached.
            network = re.compile(r"(?i)(LANG|LC_.*|UV_.*|PIP_.*|SSL_.*|.*_proxy|REQUESTS_CA_BUNDLE)")
            ours = {key: value for key, value in os.environ.items() if network.fullmatch(key)}
            ours |= {
                "HOME": str(home),
                "CI": "true",
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            }
            for step in job["steps"]:
                action = step.get("uses", "").partition("@")[0]
                if action == "actions/checkout":
                    self._check_out(ref, clone, whole=step["with"].get("fetch-depth") == 0)
                elif action == "actions/upload-artifact":
                    assert any((clone / step["with"]["path"]).iterdir())
                else:
                    assert not action, action
                    assert not step.keys() - {"name", "run", "env"}, step
                    values = job.get("env", {}) | step.get("env", {})
                    values = {key: self._expand(value, known) for key, value in values.items()}
                    ended = self._command(step["run"], clone, ours | values)
                    yield Step(name, step["run"], ended.returncode, ended.stdout)
                    if ended.returncode:
                        return

    def _check_out(self, ref: str, clone: Path, *, whole: bool) -> None:
        subprocess.run(["git", "init", "--quiet", clone], check=True)
        everything = ["origin", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]
        for command in (
            ["remote", "add", "origin", self.origin.as_uri()],
            ["fetch", "--quiet", *(everything if whole else ["--depth=1", "origin", ref])],
            ["checkout", "--quiet", "--detach", self._git("rev-parse", f"{ref}^{{commit}}").strip()],
        ):
            subprocess.run(["git", *command], cwd=clone, check=True)

    @staticmethod
    def _command(script: str, folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
        # As GitHub runs it, where no shell is named.
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        return subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=variables, text=True, check=False, **pipes)

    @staticmethod
    def _expand(text: str, known: dict[str, str]) -> str:
        def value_of(found: re.Match[str]) -> str:
            # An unknown secret is empty, as on GitHub.
            return known.get(found[1], "") if found[1].startswith("secrets.") else known[found[1]]

        return re.sub(r"\$\{\{ ([\w.]+) \}\}", value_of, str(text))


@pytest.fixture(scope="module")
def hosts() -> dict[str, Host]:
    """Both hosts, by environment."""
    return {name: testinfra.get_host(f"docker://{container}") for name, container in HOSTS.items()}


@pytest.fixture(scope="module")
def rented(hosts: dict[str, Host]) -> dict[str, str]:
    """Make what both environments rent: databases and buckets. Tells the answers to `make secrets`."""
    database = testinfra.get_host("docker://lvao-molecule-site-database")
    access, secret = value(hosts["prod"], "[airflow_logging_access_key, airflow_logging_secret_key]")
    for name in HOSTS:
        both = f"lvao-{name}-airflow"
        psql = f"runuser -u postgres -- psql --quiet --set=ON_ERROR_STOP=1 --set=both={both}"
        database.check_output(f"printf %s {shlex.quote(ROLE_AND_DATABASE)} | {psql}")
        keys = f"aws_access_key_id={access!r}, aws_secret_access_key={secret!r}, region_name='fr-par'"
        client = f"import boto3\nclient = boto3.client('s3', endpoint_url='{STORAGE}', {keys})"
        there = "[bucket['Name'] for bucket in client.list_buckets()['Buckets']]"
        run_with_airflow(hosts["prod"], client, f"'{both}' in {there} or str(client.create_bucket(Bucket='{both}'))")
    return {
        "VAULT_AIRFLOW_DATABASE_PASSWORD": "a-password",
        "VAULT_AIRFLOW_LOGGING_ACCESS_KEY": access,
        "VAULT_AIRFLOW_LOGGING_SECRET_KEY": secret,
    }


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Forge:
    """A repository with the project as it comes, as somebody's first commit."""
    folder = tmp_path_factory.mktemp("forge")
    cache = subprocess.run([PROJECT / ".venv/bin/uv", "cache", "dir"], check=True, capture_output=True, text=True)
    forge = Forge(folder, {}, Path(cache.stdout.strip()))
    copy = folder / "copy"
    pristine.copy(copy)
    shell(copy, "git init --quiet --initial-branch=main; git add .; git commit --quiet --message First")
    shell(copy, f"git push --quiet {forge.origin} main")
    return forge


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory, forge: Forge, rented: dict[str, str]) -> Iterator[dict[str, str]]:
    """The environment of somebody at a terminal, whose SSH agent has the key that both hosts let in."""
    home = tmp_path_factory.mktemp("home")
    (home / ".cache").mkdir()
    (home / ".cache/uv").symlink_to(forge.cache)
    agent = subprocess.run(["ssh-agent", "-s"], check=True, capture_output=True, text=True).stdout
    agent = dict(re.findall(r"(SSH_\w+)=([^;]+);", agent))
    known = rented | agent | {"HOME": str(home)}
    subprocess.run(["ssh-add", "-q", PROJECT / ".cache/site/ssh"], env=os.environ | agent, check=True)
    yield known
    subprocess.run(["ssh-agent", "-k"], env=os.environ | agent, check=True, capture_output=True)


def shell(folder: Path, script: str, known: dict[str, str] | None = None) -> str:
    """Run what somebody types, with nothing set that Molecule sets.

    Args:
        folder: Where.
        script: Lines of a shell; it ends at the first that fails.
        known: Variables.

    Returns:
        What it said.
    """
    ours = {
        name: text for name, text in os.environ.items() if not re.match("ANSIBLE|VAULT|MAKE|MFLAGS|MOLECULE|ENV$", name)
    }
    ours |= {
        f"GIT_{role}_{key}": f"somebody{at}"
        for role in ("AUTHOR", "COMMITTER")
        for key, at in (("NAME", ""), ("EMAIL", "@lvao.test"))
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, "text": True}
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=ours | (known or {}), check=False, **pipes
    )
    assert ended.returncode == 0, f"{script}\n{ended.stdout}"
    return ended.stdout


def tutorial(environment: str, origin: Path) -> list[str]:
    """Read the boxes of the tutorial, with our addresses in the first one.

    Args:
        environment: What to call preprod.
        origin: The repository.

    Returns:
        Their lines.
    """
    boxes = re.findall(r"^```sh\n(.*?)^```$", (PROJECT / "docs/tutorial.md").read_text(), re.MULTILINE | re.DOTALL)
    ours = {"REPOSITORY": str(origin), "SERVER": ADDRESSES[environment], "DATABASE": DATABASE, "STORAGE": STORAGE}
    for name, ours_is in ours.items():
        boxes[0], count = re.subn(rf"\b{name}=\S+", f"{name}={ours_is}", boxes[0])
        assert count == 1, name
    return [box.replace("preprod", environment) for box in boxes]


def release(host: Host) -> dict[str, str]:
    return json.loads(host.file("/opt/airflow/current/release.json").content_string)


def environment_of(host: Host) -> str:
    return run_with_airflow(host, "import os", "os.environ['ENVIRONMENT']")


def failed(steps: list[Step]) -> list[Step]:
    return [step for step in steps if step.status]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where somebody works: an empty folder, in which the tutorial makes its clone."""
    return tmp_path_factory.mktemp("empty") / "lvao-airflow"


def test_the_tutorial_leads_from_an_empty_folder_to_a_deploy(
    clone: Path, forge: Forge, person: dict[str, str], hosts: dict[str, Host]
) -> None:
    said = shell(clone.parent, "".join(tutorial("preprod", forge.origin)), person)
    assert environment_of(hosts["preprod"]) == "preprod"
    assert release(hosts["preprod"])["id"] in said
    assert "failed=0" in said
    known = {
        "SSH_PRIVATE_KEY": (PROJECT / ".cache/site/ssh").read_text(),
        "VAULT_PASSWORD": (clone / ".vault/preprod").read_text().strip(),
    }
    forge.environments |= {"preprod": known, "preprod-plan": known}


def test_a_push_to_main_deploys_preprod(
    clone: Path, forge: Forge, person: dict[str, str], hosts: dict[str, Host]
) -> None:
    before = release(hosts["prod"])
    shell(
        clone,
        "echo '# Changed.' >>dags/repair_shops.py; git commit --quiet --all --message Change; git push --quiet",
        person,
    )
    steps = forge.push("refs/heads/main", passed=PASSED)
    assert [step.command for step in steps] == ["bin/with-credentials make site"]
    assert not failed(steps), steps[-1].said
    assert release(hosts["preprod"])["commit"] == shell(clone, "git describe --always").strip()
    assert release(hosts["prod"]) == before
    for secret in forge.environments["preprod"].values():
        assert not any(line in step.said for step in steps for line in secret.splitlines())


def test_another_key_than_the_pinned_one_stops_it(
    clone: Path, forge: Forge, person: dict[str, str], hosts: dict[str, Host]
) -> None:
    before = release(hosts["preprod"])
    pinned = "inventories/preprod/known_hosts.txt"
    other = "ssh-keygen -q -t ed25519 -N '' -f ../other"
    swap = f"awk -v key=\"$(cut -d' ' -f2 ../other.pub)\" '{{$3 = key}} 1' {pinned} >../new && cp ../new {pinned}"
    shell(clone, f"{other}; {swap}; git commit --quiet --all --message Other; git push --quiet", person)
    steps = forge.push("refs/heads/main", passed=PASSED)
    assert len(failed(steps)) == 1
    assert "Host key verification failed" in " ".join(steps[-1].said.split())
    assert release(hosts["preprod"]) == before
    shell(clone, "git revert --no-edit HEAD; git push --quiet", person)


def test_a_pull_request_is_told_what_it_would_change(clone: Path, forge: Forge, person: dict[str, str]) -> None:
    wish = "sed -i 's/^airflow_env: {}/airflow_env: {ASKED_FOR: by-a-branch}/' group_vars/preprod/vars.yml"
    shell(clone, f"git switch --quiet --create topic; {wish}", person)
    shell(
        clone, "git commit --quiet --all --message Ask; git push --quiet origin topic; git switch --quiet main", person
    )
    steps = forge.start("refs/heads/topic", ".github/workflows/plan.yml", "plan")
    assert not failed(steps), steps[-1].said
    written = steps[-1].said.split("Write the environment of the next release")[1].split("TASK")[0]
    # Which may hold secrets, so that a plan does not say of what it consists.
    assert "changed: [lvao-preprod]" in written
    assert "by-a-branch" not in steps[-1].said


def test_a_tag_that_is_no_version_stops_before_any_deploy(clone: Path, forge: Forge, person: dict[str, str]) -> None:
    shell(clone, "git tag vNext; git push --quiet origin vNext", person)
    steps = forge.push("refs/tags/vNext", passed=PASSED)
    assert [step.command for step in steps] == ["make release-check"]
    assert "'vNext' is not a version" in failed(steps)[0].said
    shell(clone, "git tag --delete vNext; git push --quiet --delete origin vNext", person)


def test_a_version_deploys_prod(clone: Path, forge: Forge, person: dict[str, str], hosts: dict[str, Host]) -> None:
    before = release(hosts["preprod"])
    # What the tutorial does for preprod, but for its deploy.
    boxes = [box for box in tutorial("prod", forge.origin)[2:] if "make site" not in box and "make releases" not in box]
    shell(clone, "".join([tutorial("prod", forge.origin)[0], *boxes]), person)
    forge.environments["prod"] = {
        "SSH_PRIVATE_KEY": (PROJECT / ".cache/site/ssh").read_text(),
        "VAULT_PASSWORD": (clone / ".vault/prod").read_text().strip(),
    }
    shell(clone, "sed -i 's/^version = .*/version = \"1.2.3\"/' pyproject.toml")
    shell(clone, "printf '\\n## 1.2.3\\n\\n- Everything.\\n' >>CHANGELOG.md")
    shell(clone, "git commit --quiet --all --message 1.2.3; git push --quiet; make release VERSION=1.2.3", person)
    shell(clone, "git push --quiet origin v1.2.3", person)
    steps = forge.push("refs/tags/v1.2.3", passed=PASSED)
    assert [step.command.split()[-1] for step in steps] == ["release-check", "site"]
    assert not failed(steps), steps[-1].said
    assert release(hosts["prod"])["commit"] == "v1.2.3"
    assert environment_of(hosts["prod"]) == "prod"
    assert release(hosts["preprod"]) == before
