"""A data platform moves in from its own repository: its Python, its packages, its dbt project, its folders, its checks.

What stands in `monorepo/` is written for this: a package in a folder beside the project, one from Git and one without a
wheel, a dbt project with a package and a test, texts that are read at import, and a Python that is not the host's.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pristine
import pytest
from conftest import INVENTORY, PROJECT, Airflow, Ended, said, wait_for
from testinfra.host import Host

pytestmark = pytest.mark.usefixtures("deployed")
MONOREPO = Path(__file__).parents[1] / "monorepo"
PYTHON = "/opt/airflow/current/venv/bin/python"


def git(folder: Path, *arguments: str) -> None:
    """Run Git as somebody."""
    somebody = ["-c", "user.name=team", "-c", "user.email=team@example.org"]
    subprocess.run(["git", *somebody, "-C", folder, *arguments], check=True, capture_output=True)


def commit(folder: Path) -> None:
    """Commit all that a folder holds."""
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=all")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the team's repositories: the monorepo, and two that it takes packages from."""
    folder = tmp_path_factory.mktemp("team")
    for name in ("colours", "dbt_shared"):
        shutil.copytree(MONOREPO / name, folder / name)
        commit(folder / name)
    shutil.copytree(MONOREPO, folder / "monorepo", ignore=shutil.ignore_patterns("colours", "dbt_shared"))
    for name in ("data-platform/pyproject.toml", "data-platform/dbt/packages.yml"):
        path = folder / "monorepo" / name
        path.write_text(path.read_text().replace("file:///srv/", f"file://{folder}/"))
    commit(folder / "monorepo")
    # What Git ignores.
    (folder / "monorepo/data-platform/.env").write_text("CATALOGUE_URL=http://127.0.0.1:9/\n")
    (folder / "monorepo/data-platform/dags/.env").write_text("SECRET=of-a-developer\n")
    return folder / "monorepo"


@pytest.fixture(scope="module")
def project(team: Path) -> Path:
    """Name the part of the monorepo that is the project."""
    return team / "data-platform"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pack a Python that the host does not have: that of Debian 12."""
    subprocess.run([PROJECT / "bin/base-image", "12"], check=True)
    path = tmp_path_factory.mktemp("python") / "python.tar.gz"
    script = "mkdir -p /python/bin /python/lib && cp -r /usr/lib/python3.11 /python/lib/ && cp /usr/bin/python3.11 "
    script += "/python/bin/ && ln -s python3.11 /python/bin/python3 && tar --create --gzip --directory=/ python"
    with path.open("wb") as file:
        command = ["docker", "run", "--rm", "lvao-systemd:debian12", "sh", "-c", script]
        subprocess.run(command, stdout=file, check=True)
    ask = ["docker", "run", "--rm", "lvao-systemd:debian12", "python3", "-c"]
    ask.append("import platform; print(platform.python_version())")
    version = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    return {
        "airflow_python_version": version,
        "airflow_python_source": str(path),
        "airflow_python_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy this repository, as it lies beside the team's, with the tools and the secrets of now."""
    folder = tmp_path_factory.mktemp("beside") / "lvao-airflow"
    folder.mkdir()
    pristine.copy(folder)
    (folder / ".cache").mkdir()
    for name in ("molecule", "molecule-platform"):
        shutil.copytree(PROJECT / ".cache" / name, folder / ".cache" / name)
    (folder / ".venv").symlink_to(PROJECT / ".venv")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=all")
    return folder


def run(checkout: Path, project: Path, *command: str | Path) -> Ended:
    """Run a command of the checkout for the project."""
    # Molecule's own settings name the roles of this checkout.
    known = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    known |= {"LVAO_PROJECT": str(project), "ANSIBLE_CONFIG": f"{checkout}/ansible.cfg"}
    known["PATH"] = f"{Path(sys.executable).parent}:{known['PATH']}"
    return subprocess.run(
        command, cwd=checkout, env=known, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )


def deploy(checkout: Path, project: Path, archive: dict[str, str], playbook: str = "deploy") -> Ended:
    """Deploy the project over SSH, as an operator would."""
    command = ["ansible-playbook", "-i", INVENTORY, f"playbooks/{playbook}.yml", "--extra-vars", json.dumps(archive)]
    return run(checkout, project, *command)


@pytest.fixture(scope="module")
def deployed(checkout: Path, project: Path, archive: dict[str, str]) -> Ended:
    """Lock, check and deploy the project: what each test looks at."""
    for command in (
        ["bin/lock.py"],
        [sys.executable, "bin/packages.py", "install", ".venv-airflow"],
    ):
        ended = run(checkout, project, *command)
        assert ended.returncode == 0, ended.stdout
    ended = deploy(checkout, project, archive, "site")
    assert ended.returncode == 0, ended.stdout
    return ended


def test_the_lock_names_what_was_built_with_what_it_was_built_from(project: Path) -> None:
    lock = (project / "requirements/airflow.txt").read_text()
    assert "colours @ git+file://" in lock
    assert "ratelimit==" in lock
    assert "../webapp" in lock
    assert "apache-airflow==" in lock


def test_the_teams_dags_and_tests_pass_with_warnings(checkout: Path, project: Path) -> None:
    ended = run(checkout, project, "bin/dag_tests.py", "-m", "smoke")
    assert ended.returncode == 0, ended.stdout
    assert "asks_a_service.py" in ended.stdout
    assert "owner" in ended.stdout
    assert "1 passed" in ended.stdout


def test_the_deploy_warns_of_the_file_whose_service_is_away(deployed: Ended) -> None:
    assert "asks_a_service.py" in said(deployed)


def test_the_host_runs_the_chosen_python_and_what_was_built(host: Host, archive: dict) -> None:
    code = "import platform, colours, ratelimit, repairs.models; print(platform.python_version())"
    assert host.check_output(f"{PYTHON} -c {shlex.quote(code)}") == archive["airflow_python_version"]
    # Root's own scripts stay on Debian's.
    assert archive["airflow_python_version"] not in host.check_output("/usr/bin/python3 --version")


def test_the_release_carries_what_the_dags_read_and_no_secret(host: Host) -> None:
    found = host.check_output("cd /opt/airflow/current && find -L dags dbt texts -type f").split()
    wanted = {"dbt/tests/cities_are_loud.sql", "texts/ingest.md", "dags/.airflowignore", "dags/log_canary.py"}
    assert {*found} >= wanted
    assert any(path.startswith("dbt/dbt_packages/") and path.endswith("shout.sql") for path in found)
    assert not [path for path in found if ".env" in path or path.startswith("dags/tests/")]


def start(airflow: Airflow, dag_id: str) -> str:
    """Start a run of a DAG that is paused, as each new one is."""
    run_id = airflow.trigger(dag_id)
    assert airflow.call("PATCH", f"/dags/{dag_id}", {"is_paused": False})[0] == 200
    return run_id


def test_each_dag_runs(host: Host, airflow: Airflow) -> None:
    host.check_output("mkdir -p /root/catalogue && echo catalogue > /root/catalogue/index.html")
    host.check_output(
        "systemd-run --unit=catalogue python3 -m http.server 8999 --bind 127.0.0.1 --directory /root/catalogue"
    )
    logs = {}
    for dag_id, task_id in (("ingest_shops", "store"), ("enrich_shops", "build")):
        run_id = start(airflow, dag_id)
        assert airflow.finish(dag_id, run_id) == "success"
        # Between its end and that of its log's way to the bucket, there is none.
        read = partial(airflow.log, dag_id, run_id, task_id)
        logs[dag_id] = wait_for(lambda read=read: len(log := read()) > 1000 and log, 30, "its log")
    assert "ingest: la-fabrique-lyon is blue" in logs["ingest_shops"]
    # One model, and its test.
    assert "PASS=2" in logs["enrich_shops"]
    wait_for(lambda: airflow.call("GET", "/dags/asks_a_service")[0] == 200, 90, "the service's DAG")
    assert airflow.finish("asks_a_service", start(airflow, "asks_a_service")) == "success"


def test_folders_come_with_the_dags_alone_and_go_back_with_them(
    host: Host, checkout: Path, project: Path, archive: dict
) -> None:
    text, live = project / "texts/ingest.md", "/opt/airflow/current/texts/ingest.md"
    before = text.read_text()
    text.write_text("# Other shops\n")
    process = host.check_output("systemctl show --property=MainPID lvao-airflow-webserver")
    ended = deploy(checkout, project, archive, "dags")
    assert ended.returncode == 0, ended.stdout
    assert host.file(live).content_string == "# Other shops\n"
    assert host.check_output("systemctl show --property=MainPID lvao-airflow-webserver") == process
    text.write_text(before)
    ended = deploy(checkout, project, archive, "rollback")
    assert ended.returncode == 0, ended.stdout
    assert host.file(live).content_string == before
    description = json.loads(host.file("/opt/airflow/current/release.json").content_string)
    head = subprocess.run(
        ["git", "-C", project, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    assert description["commit"].startswith(head.stdout.strip())


def test_code_of_the_application_comes_with_the_next_deploy(
    host: Host, checkout: Path, project: Path, archive: dict
) -> None:
    models = project.parent / "webapp/src/repairs/models.py"
    models.write_text(models.read_text().replace('replace(" ", "-")', 'replace(" ", "_")'))
    ended = deploy(checkout, project, archive, "dags")
    assert ended.returncode != 0
    assert "deploy with playbooks/deploy.yml" in said(ended)
    ended = deploy(checkout, project, archive)
    assert ended.returncode == 0, ended.stdout
    code = "from repairs.models import Shop; print(Shop('La Fabrique', 'Lyon').slug())"
    assert host.check_output(f"{PYTHON} -c {shlex.quote(code)}") == "la_fabrique_lyon"
