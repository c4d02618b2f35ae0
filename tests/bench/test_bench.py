"""Measures what an operator waits for, on the hosts of the Molecule scenario `site`, over SSH.

Figures compare within one run only. Usage: make bench
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import requests

PROJECT = Path(__file__).parents[2]
HOSTS = {"scheduler": "172.29.213.11", "webserver": "172.29.213.12"}
SSH = f"ssh -i {PROJECT}/.cache/site/ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
API = f"http://{HOSTS['webserver']}:8080"
DOMAIN = "airflow.bench.internal"
VALUES = {
    # It asks the API from this machine, which is no host of the environment.
    "firewall_extra_rules": [{"comment": "benchmark", "ports": [8080], "sources": ["172.29.213.0/24"]}],
    "reverse_proxy_domain": DOMAIN,
    "reverse_proxy_tls": "internal",
}
# Runs on the webserver's host, and takes the addresses in turn.
ASK = f"""
import http.client, pathlib, socket, ssl, statistics, time

authority = pathlib.Path("/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt")
plain = http.client.HTTPConnection("127.0.0.1", 8081)
proxy = http.client.HTTPConnection("{HOSTS["webserver"]}", 8080)
https = http.client.HTTPSConnection("{DOMAIN}")
context = ssl.create_default_context(cadata=authority.read_text())
https.sock = context.wrap_socket(socket.create_connection(("127.0.0.1", 443)), server_hostname="{DOMAIN}")
ways = {{"Airflow itself, on loopback": plain, "Caddy, plain": proxy, "Caddy, HTTPS": https}}
took = {{way: [] for way in ways}}
for _ in range(1000):
    for way, connection in ways.items():
        began = time.perf_counter()
        connection.request("GET", "/api/v2/version")
        assert len(connection.getresponse().read()) > 0
        took[way].append(1000 * (time.perf_counter() - began))
for way, times in took.items():
    print(f"  {{way:56}} {{statistics.median(times):6.1f}} ms median, {{sorted(times)[989]:.1f}} ms p99")
"""
DAG = """from datetime import datetime

from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator

with DAG("bench_{number}", schedule=None, start_date=datetime(2026, 1, 1)):
    EmptyOperator(task_id="empty{edition}")
"""
# Of which more than a few run at a time.
GAP = """from datetime import datetime

from airflow.sdk import dag, task


@dag(schedule=None, start_date=datetime(2026, 1, 1), is_paused_upon_creation=False, max_active_runs=1000)
def bench_gap():
    @task
    def start():
        pass

    start()


bench_gap()
"""


def run(*command: str | Path) -> str:
    """Run a command.

    Args:
        command: The command and its arguments.

    Returns:
        What it said.

    Raises:
        SystemExit: It failed.
    """
    ended = subprocess.run(command, cwd=PROJECT, text=True, capture_output=True, check=False)
    if ended.returncode:
        sys.exit(f"bench: {command} failed\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def measure(what: str, *command: str | Path) -> str:
    """Run a command, and print how long it took.

    Args:
        what: What is measured.
        command: The command and its arguments.

    Returns:
        What it said.
    """
    began = time.monotonic()
    said = run(*command)
    tasks = len(re.findall("^TASK", said, re.MULTILINE))
    print(f"{what:58} {time.monotonic() - began:6.1f} s{f'  {tasks} tasks' if tasks else ''}", flush=True)
    return said


def playbook(name: str, *, inventory: str = "site", **values: object) -> list[str]:
    """Compose the command that runs a playbook on the hosts of Airflow.

    Args:
        name: The playbook's name.
        inventory: Which of Molecule's inventories.
        values: Variables.
    """
    arguments = ["--limit", "scheduler:webserver", "--extra-vars", json.dumps(VALUES | values)]
    return ["ansible-playbook", "-i", f"molecule/inventories/{inventory}", f"playbooks/{name}.yml", *arguments]


def no_change(what: str, command: list[str]) -> None:
    """Measure a deploy that has nothing to do."""
    run(*command)
    if re.search("changed=[1-9]", said := measure(what, *command)):
        sys.exit(f"bench: that was to change nothing\n{said}")


def write_dags(folder: Path, number: int, edition: int) -> None:
    """Write DAGs beside those of the project."""
    for count in range(number):
        (folder / f"bench_{count}.py").write_text(DAG.format(number=count, edition=edition))


@contextmanager
def repeated(what: str, per_second: int, action: object) -> Iterator[None]:
    """Call something at a steady rate, each call in a thread of its own, while the block runs.

    Args:
        what: What is called, for the names of the threads.
        per_second: How often.
        action: What to call.
    """
    over = threading.Event()
    threads = []

    def call() -> None:
        began = time.monotonic()
        for count in itertools.count(1):
            threads.append(threading.Thread(target=action, name=what))
            threads[-1].start()
            if over.wait(began + count / per_second - time.monotonic()):
                return

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield
    finally:
        over.set()
        caller.join()
        for thread in threads:
            thread.join()


def measure_deploy_under_load(source: Path) -> None:
    """Deploy while requests come in and runs are triggered: the slowest request, and the longest wait of a task.

    Args:
        source: Folder of the DAGs, with that of the runs.
    """
    (source / "bench_gap.py").write_text(GAP)
    run(*playbook("deploy", airflow_dags_source=str(source)))
    time.sleep(60)  # until the DAG is known
    said = run(
        "ansible",
        "-i",
        "molecule/inventories/site",
        "webserver",
        "-m",
        "debug",
        "-a",
        "var=vault_airflow_database_admin_password",
    )
    password = re.search('"?vault_airflow_database_admin_password"?: *"?(.*?)"?$', said, re.MULTILINE)[1]
    login = {"username": "admin", "password": password}
    token = requests.post(f"{API}/auth/token", json=login, timeout=60).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    answers: list[tuple[int, float]] = []
    runs: list[str] = []

    def send(method: str, path: str, body: dict[str, None] | None = None) -> requests.Response | None:
        began, answer = time.monotonic(), None
        with suppress(requests.RequestException):
            answer = requests.request(method, f"{API}/api/v2/{path}", json=body, headers=headers, timeout=300)
        answers.append((0 if answer is None else answer.status_code, time.monotonic() - began))
        return answer

    def ask() -> None:
        send("GET", "version")

    def trigger() -> None:
        if answer := send("POST", "dags/bench_gap/dagRuns", {"logical_date": None}):
            runs.append(answer.json()["dag_run_id"])

    with repeated("request", 20, ask), repeated("trigger", 1, trigger):
        measure(
            "deploy of a new configuration, under load",
            *playbook("deploy", airflow_dags_source=str(source), airflow_env_host={"BENCH": str(time.time())}),
        )
    failed = sum(status != requests.codes.ok for status, _ in answers)
    print(
        f"  {len(answers)} requests, {failed} failed; the slowest took {max(seconds for _, seconds in answers):.1f} s"
    )
    time.sleep(30)
    waits = []
    for run_id in runs:
        url = f"{API}/api/v2/dags/bench_gap/dagRuns/{run_id}"
        facts = requests.get(url, headers=headers, timeout=60).json()
        task = requests.get(f"{url}/taskInstances/start", headers=headers, timeout=60).json()
        if task.get("start_date"):
            waits.append(
                (
                    datetime.fromisoformat(task["start_date"]) - datetime.fromisoformat(facts["queued_at"])
                ).total_seconds()
            )
    print(f"  {len(runs)} runs triggered, {len(waits)} started; the longest waited {max(waits):.1f} s")
    if failed or len(waits) < len(runs):
        sys.exit("bench: no request was to fail, and each run to start")


def measure_refusal() -> None:
    """Start a deploy beside another."""
    with subprocess.Popen(playbook("deploy"), cwd=PROJECT, stdout=subprocess.PIPE, text=True) as first:
        next(line for line in first.stdout if "deploy_lock : take" in line)
        next(line for line in first.stdout if line.startswith("TASK"))
        began = time.monotonic()
        second = subprocess.run(playbook("deploy"), cwd=PROJECT, text=True, capture_output=True, check=False)
        seconds = time.monotonic() - began
        first.stdout.read()
    if "Locked by" not in second.stdout:
        sys.exit(f"bench: the second deploy was to be refused\n{second.stdout}")
    print(f"{'deploy.yml beside another, which refuses it':58} {seconds:6.1f} s", flush=True)


def measure_requests() -> None:
    """Send requests to Airflow itself and through its proxy."""
    print("1000 requests on one connection")
    webserver = ["docker", "exec", "--interactive", "lvao-molecule-site-webserver", "python3", "-c", ASK]
    print(run(*webserver), end="", flush=True)


def test_what_an_operator_waits_for() -> None:
    os.environ["ANSIBLE_VAULT_PASSWORD_FILE"] = str(PROJECT / "molecule/site/vault-password")
    os.environ |= {"ANSIBLE_FORCE_COLOR": "false", "ANSIBLE_NOCOLOR": "true"}
    run("molecule", "destroy", "--scenario-name", "site")
    run("molecule", "create", "--scenario-name", "site")
    first = [
        "ansible-playbook",
        "-i",
        "molecule/inventories/site",
        "playbooks/site.yml",
        "--extra-vars",
        json.dumps(VALUES),
    ]
    measure("first site.yml, four hosts", *first)
    no_change("no-change site.yml, Airflow on two hosts", playbook("site"))
    no_change("no-change deploy.yml, Airflow on two hosts", playbook("deploy"))
    measure_refusal()
    measure_requests()
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "dags")
        shutil.copytree(PROJECT / "dags", source, ignore=shutil.ignore_patterns("tests", "__pycache__"))
        run("ansible", "-i", "molecule/inventories/site", "scheduler", "-m", "apt", "-a", "name=rsync")
        for number in (10, 2000):
            for edition in (1, 2):
                write_dags(source, number, edition)
                what = f"dags.yml, {number} {'new' if edition == 1 else 'changed'} files, two hosts"
                measure(what, *playbook("dags", airflow_dags_source=str(source)))
                rsync = ["rsync", "-a", "--delete", "-e", SSH, f"{source}/", f"debian@{HOSTS['scheduler']}:dags"]
                if shutil.which("rsync"):
                    measure("  rsync of the same, one host", *rsync)
                else:
                    print("  rsync is not installed here, and left out")
        measure("rollback.yml to the release before", *playbook("rollback"))
        for left in source.glob("bench_*.py"):
            left.unlink()
        measure_deploy_under_load(source)
    run(*playbook("deploy"))
    no_change("no-change site.yml, Airflow on one host", playbook("site", inventory="bench"))
    run("molecule", "destroy", "--scenario-name", "site")
