"""What the tests of all scenarios share: Airflow as seen from its host, and the values that it was deployed with."""

import base64
import hmac
import http.client
import itertools
import json
import os
import re
import shlex
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
import requests
from testinfra.host import Host

PROJECT = Path(__file__).parents[1]
# How many times longer than usual things may take.
PATIENCE = int(os.environ.get("LVAO_PATIENCE", "1"))
ENVIRONMENT = os.environ["LVAO_ENVIRONMENT"]
EMULATED = ENVIRONMENT == "vagrant" and os.environ.get("LVAO_VM_ACCELERATION") != "kvm"
SECRETS = PROJECT / ".cache" / ENVIRONMENT
INVENTORY = os.environ["LVAO_INVENTORY"]
HEALTHY = dict.fromkeys(("metadatabase", "scheduler", "triggerer", "dag_processor"), "healthy")
# The hosts of the scenario `site`, in the order of their addresses.
SITE = ("scheduler", "webserver", "database", "storage")
Ended = subprocess.CompletedProcess[str]
T = TypeVar("T")
Json = str | int | bool | list | dict | None

# Its checks say what they found, as those of the tests do.
pytest.register_assert_rewrite("deploys")

# Molecule asks for colours, which tests cannot read.
os.environ |= {"ANSIBLE_FORCE_COLOR": "false", "ANSIBLE_NOCOLOR": "true"}


def pytest_configure(config: pytest.Config) -> None:
    """Make known what tests are marked with."""
    config.addinivalue_line("markers", "anywhere: the same wherever it runs, and tested in containers of Debian 13")
    config.addinivalue_line("markers", "first: wants a host as it was set up")
    config.addinivalue_line("markers", "last: takes away what other tests need")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what takes away something when nobody needs it any more, and the other way round."""
    items.sort(key=lambda item: bool(item.get_closest_marker("last")) - bool(item.get_closest_marker("first")))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip on another Debian, and where the CPU is emulated, what does not depend on it."""
    if item.get_closest_marker("anywhere") and (os.environ.get("DEBIAN", "13") != "13" or EMULATED):
        pytest.skip("the same wherever it runs")


def value(host: Host, expression: str) -> Json:
    """Ask Ansible for a value of a host, as the roles see it.

    Args:
        host: Where the roles were applied.
        expression: Name of a variable, or a Jinja expression.

    Returns:
        The value.
    """
    message = f"msg={{{{ {{'value': {expression}}} | to_json }}}}"
    command = ["ansible", "-i", INVENTORY, host.backend.get_hostname(), "-m", "ansible.builtin.debug", "-a", message]
    environment = os.environ | {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
    said = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True, env=environment).stdout
    return json.loads(json.loads(said.split("=>", 1)[1])["msg"])["value"]


def address(host: Host) -> str:
    """Say at which IPv4 address this machine reaches a host."""
    addresses = host.check_output("hostname --ip-address").split()
    return os.environ.get("LVAO_ADDRESS") or next(address for address in addresses if "." in address)


def reboot(host: Host) -> None:
    """Restart a container, or a VM, and wait until it answers again."""
    if host.backend.NAME == "docker":
        subprocess.run(["docker", "restart", host.backend.get_hostname()], check=True, capture_output=True)
        return

    def boot() -> str:
        # Of a host that cannot be reached, there is nothing to say.
        with suppress(RuntimeError):
            return host.run("cat /proc/sys/kernel/random/boot_id").stdout.strip()
        return ""

    before = boot()
    host.check_output("systemctl --no-block reboot")
    wait_for(lambda: boot() not in {"", before}, 60, "the VM to be back")


def unit_property(host: Host, unit: str, name: str) -> str:
    """Ask systemd for a property of a unit."""
    return host.check_output(f"systemctl show --property={name} --value {unit}")


def journal(host: Host, unit: str) -> str:
    """Read the last lines of a unit's journal, for the message of a failing test."""
    return host.run(f"journalctl --no-pager --lines=30 --unit='{unit}*'").stdout


def assert_that_it_keeps_running(host: Host, unit: str) -> None:
    """Check that a unit of Airflow runs now, at boot and after a failure, and stops gracefully."""
    assert host.service(unit).is_enabled
    assert host.service(unit).is_running, journal(host, unit)
    assert unit_property(host, unit, "Restart") == "always"
    assert unit_property(host, unit, "KillMode") == "mixed"
    assert "network-online.target" in unit_property(host, unit, "After")


def assert_that_it_is_sandboxed(host: Host, unit: str, bound: float = 1.5) -> None:
    """Check that systemd finds a unit no more exposed than a bound, of 0 to 10."""
    *lines, verdict = host.check_output(f"systemd-analyze security --no-pager {unit}").splitlines()
    exposed = [line for line in lines if line.startswith("✗")]
    worst = sorted(exposed, key=lambda line: line.split()[-1], reverse=True)[:20]
    assert float(re.search(r": ([0-9.]+) ", verdict)[1]) <= bound, "\n".join([verdict, *worst])


def run_with_airflow(host: Host, imports: str, expression: str) -> Json:
    """Evaluate a Python expression in the environment of Airflow's processes.

    Args:
        host: Where Airflow is installed.
        imports: Statements that come first.
        expression: What to evaluate; it may not hold a dollar sign.

    Returns:
        Its value, which came as JSON.
    """
    fragments = ["/opt/airflow/secrets/current/env.d/*.env", "/etc/airflow/env.d/*.env", "/etc/airflow/dags.d/*.env"]
    properties = " ".join(f"--property='EnvironmentFile={path}'" for path in fragments)
    properties += " --uid=airflow --quiet --wait --pipe --collect"
    code = shlex.quote(f"import json\n{imports}\nprint('\\n=>', json.dumps({expression}))")
    release = "/opt/airflow/current"
    python = f"env PYTHONPATH={release}/libexec/python {release}/venv/bin/python"
    ended = host.run(f"systemd-run {properties} {python} -c {code}")
    assert ended.succeeded, ended.stderr
    # Airflow's logging comes on standard output, too.
    return json.loads(next(line for line in ended.stdout.splitlines() if line.startswith("=> "))[3:])


def wait_for(check: Callable[[], T], seconds: float, what: str) -> T:
    """Call a check until what it returns is true, every three seconds once that has taken a while.

    Args:
        check: What to call.
        seconds: How long to go on, on a machine as usual.
        what: What is waited for, for the message.

    Returns:
        The first true result.

    Raises:
        AssertionError: There was none in time.
    """
    end = time.monotonic() + seconds * PATIENCE
    # To ask costs the host more than most that it waits for.
    pause = 0.5
    while time.monotonic() < end:
        if result := check():
            return result
        time.sleep(pause)
        pause = min(1.3 * pause, 3)
    message = f"waited {seconds * PATIENCE} s in vain for {what}"
    raise AssertionError(message)


class Answer(NamedTuple):
    """What became of a request."""

    method: str
    status: int | str
    seconds: float


@contextmanager
def steady_requests(
    asked: list[tuple[str, str, Json] | tuple[str, str, Json, str]], per_second: int = 20
) -> Iterator[list[Answer]]:
    """Send requests while the block runs, at a steady rate, each on a connection of its own.

    Args:
        asked: Method, address, JSON body and, if it wants one, token of each, which take turns.
        per_second: How many in a second, whether those before are answered or not.

    Yields:
        The answers, which are complete after the block. One that did not come has its error as status.
    """
    answers: list[Answer] = []
    over = threading.Event()
    timeout = 3000 if EMULATED else 300

    def ask(method: str, url: str, body: Json, token: str = "") -> None:
        began = time.monotonic()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            status = requests.request(method, url, json=body, headers=headers, timeout=timeout).status_code
        except requests.RequestException as error:
            status = repr(error)
        answers.append(Answer(method, status, time.monotonic() - began))

    def send(pool: ThreadPoolExecutor) -> None:
        began = time.monotonic()
        for count, request in enumerate(itertools.cycle(asked), 1):
            pool.submit(ask, *request)
            if over.wait(began + count / per_second - time.monotonic()):
                break

    with ThreadPoolExecutor(max_workers=2000) as pool:
        sender = threading.Thread(target=send, args=[pool])
        sender.start()
        try:
            yield answers
        finally:
            over.set()
            sender.join()
    print(f"{len(answers)} requests, the slowest took {max(answer.seconds for answer in answers):.1f} s")


class Public:
    """The public side of a host's reverse proxy, asked over HTTPS from this machine."""

    def __init__(self, host: Host, domain: str) -> None:
        """Trust the authority that the proxy is itself.

        Args:
            host: Where it runs.
            domain: The name that it answers to.
        """
        self.domain = domain
        self.address = address(host)
        root = "/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt"
        wait_for(lambda: host.file(root).exists, 15, "the authority's certificate")
        self.authority = host.file(root).content_string

    def connect(self, name: str = "", **limits: ssl.TLSVersion) -> http.client.HTTPSConnection:
        """Open a connection.

        Args:
            name: Another name to ask for.
            limits: `minimum_version` or `maximum_version` of TLS.

        Returns:
            The connection, whose certificate was verified.

        Raises:
            ssl.SSLError: There is none that both sides accept.
        """
        context = ssl.create_default_context(cadata=self.authority)
        for limit, version in limits.items():
            # What a distribution forbids its own programs, to see that the other side does, too.
            context.set_ciphers("ALL:@SECLEVEL=0")
            setattr(context, limit, version)
        connection = http.client.HTTPSConnection(name or self.domain, timeout=60)
        plain = socket.create_connection((self.address, 443), timeout=60)
        connection.sock = context.wrap_socket(plain, server_hostname=name or self.domain)
        return connection

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Send a request.

        Args:
            method: HTTP method.
            path: As it stands in the request, not normalized.
            body: What to send.
            headers: Beside those that HTTP wants.

        Returns:
            The answer, and its body.
        """
        connection = self.connect()
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content


def signed_like(token: str, secret: str, **claims: str | float) -> str:
    """Make a token of Airflow's API like another, valid for a minute, but for some claims.

    Args:
        token: The other.
        secret: What to sign it with.
        claims: Those that differ.

    Returns:
        The token.
    """
    header, payload = (json.loads(base64.urlsafe_b64decode(f"{part}==")) for part in token.split(".")[:2])
    parts = [json.dumps(part).encode() for part in (header, payload | {"exp": time.time() + 60} | claims)]
    text = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    signature = hmac.digest(secret.encode(), text.encode(), header["alg"].replace("HS", "sha"))
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


class Airflow:
    """Airflow's API, called on the host itself."""

    def __init__(self, host: Host) -> None:
        """Remember the host.

        Args:
            host: Where the webserver runs.
        """
        self.host = host
        self.password = value(host, "airflow_database_admin_password")
        self.url = "http://127.0.0.1:8080"
        self.token = ""

    def login(self, password: str) -> tuple[int, str]:
        """Ask for a token.

        Args:
            password: The admin account's password, or a wrong one.

        Returns:
            The HTTP status, and the token or an empty string.
        """
        status, answer = self._call("POST", "/auth/token", {"username": "admin", "password": password}, token="")
        return status, answer.get("access_token", "")

    def call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        token: str | None = None,
        root: str = "/api/v2",
    ) -> tuple[int, Any]:
        """Call the API, as admin unless told otherwise.

        Args:
            method: HTTP method.
            path: Path below the root.
            body: What to send, as JSON.
            token: What to show instead of the admin's token.
            root: That of the API.

        Returns:
            The HTTP status, and the answer.
        """
        if token:
            return self._call(method, f"{root}{path}", body, token)
        answer = self._call(method, f"{root}{path}", body, self.token)
        # The first one, and after the keys have changed.
        if answer[0] in {401, 403}:
            self.token = self.login(self.password)[1]
            answer = self._call(method, f"{root}{path}", body, self.token)
        return answer

    def _call(self, method: str, path: str, body: dict[str, Any] | None, token: str) -> tuple[int, Any]:
        command = ["curl", "--silent", "--request", method, "--write-out", "\n%{http_code}"]
        command += ["--header", "Content-Type: application/json", "--header", f"Authorization: Bearer {token}"]
        command += ["--data", json.dumps(body)] if body else []
        answer, status = self.host.run(shlex.join([*command, f"{self.url}{path}"])).stdout.rsplit("\n", 1)
        return int(status), json.loads(answer) if answer.startswith(("{", "[")) else {"text": answer}

    def health(self) -> dict[str, str]:
        """Ask for the health of every component."""
        status, components = self._call("GET", "/api/v2/monitor/health", None, "")
        return {name: facts["status"] for name, facts in components.items()} if status == 200 else {}

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run of a DAG, once Airflow knows the DAG.

        Args:
            dag_id: Which one.
            conf: Values for its params.

        Returns:
            The run's id.
        """

        # One that shows up may not be there to be run yet.
        def ask() -> tuple[int, Any] | None:
            answer = self.call("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf or {}})
            return answer if answer[0] != 404 else None

        status, run = wait_for(ask, 30, f"the DAG {dag_id} to show up")
        assert status == 200, run
        return run["dag_run_id"]

    def state(self, dag_id: str, run_id: str) -> str:
        """Ask for the state of a run."""
        return self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")[1]["state"]

    def finish(self, dag_id: str, run_id: str) -> str:
        """Wait for the end of a run, and print the log of each task that failed.

        Returns:
            Its last state.
        """
        ended = {"success", "failed"}
        state = wait_for(lambda: ended & {self.state(dag_id, run_id)}, 120, f"{dag_id} to end").pop()
        if state == "failed":
            for task in self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")[1]["task_instances"]:
                print(task["task_id"], task["state"], self.log(dag_id, run_id, task["task_id"]))
        return state

    def log(self, dag_id: str, run_id: str, task_id: str) -> str:
        """Read the log of a task's first try through the API."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        return json.dumps(self.call("GET", f"{path}/logs/1")[1])


def open_ports(address: str, container: str | None = None, ports: Iterable[int] = ()) -> list[int]:
    """Try TCP ports of an address.

    Args:
        address: An IPv4 or IPv6 address.
        container: Where to try it from, instead of this machine.
        ports: Which ones, if not all.

    Returns:
        Those that let one in.
    """
    where = ["docker", "exec", "--interactive", container] if container else []
    source = (PROJECT / "molecule/shared/scan.py").read_text()
    command = [*where, "python3", "-", address, *map(str, ports)]
    return json.loads(subprocess.run(command, input=source, check=True, capture_output=True, text=True).stdout)


@contextmanager
def repeated(action: Callable[[], object], every_seconds: float) -> Iterator[None]:
    """Do something over and over while the block runs, and fail if that fails.

    Args:
        action: What to do.
        every_seconds: How long to wait before each time.
    """
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(every_seconds):
            action()

    with ThreadPoolExecutor() as pool:
        repeating = pool.submit(repeat)
        try:
            yield
        finally:
            over.set()
            repeating.result()


@contextmanager
def watched_processes() -> Iterator[set[str]]:
    """Collect the command lines of all processes of this machine, with those of its containers, over and over.

    Yields:
        What was seen; it is complete after the block.
    """
    seen: set[str] = set()

    def look() -> None:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                seen.add((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))

    with repeated(look, 0.2):
        yield seen


@contextmanager
def sleeping_task(host: Host, airflow: Airflow, **conf: str | int) -> Iterator[str]:
    """Save the DAG `sleeper` on a host, and run it.

    Args:
        host: Where the DAG processor and the scheduler run.
        airflow: Its API.
        conf: Values for its params.

    Yields:
        Path of the task instance in the API, once the task runs.
    """
    dag = "/opt/airflow/current/dags/sleeper.py"
    source = (PROJECT / "molecule/shared/dags/sleeper.py").read_text()
    host.check_output(f"printf %s {shlex.quote(source)} > {dag}")
    run_id = airflow.trigger("sleeper", {"seconds": 15} | conf)  # waits 30 s at most
    path = f"/dags/sleeper/dagRuns/{run_id}/taskInstances/sleep"
    wait_for(lambda: airflow.call("GET", path)[1].get("state") == "running", 30, "the task to run")
    yield path
    host.check_output(f"rm {dag}")


@pytest.fixture(scope="module")
def airflow(host: Host) -> Airflow:
    """Airflow's API on the scenario's host."""
    return Airflow(host)


def run_playbook(playbook: str, hosts: str, *arguments: str) -> Ended:
    """Run a playbook of the project against hosts of the scenario, as an operator would.

    Args:
        playbook: Its name in `playbooks/`, without the ending.
        hosts: A pattern of the inventory.
        arguments: Further arguments of ansible-playbook.

    Returns:
        The ended process, with standard output and error in `stdout`.
    """
    command = ["ansible-playbook", "-i", INVENTORY, "--limit", hosts, f"playbooks/{playbook}.yml", *arguments]
    return subprocess.run(
        command, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )


def apply_role(host: Host, role: str, *arguments: str, entry_point: str = "main", **values: object) -> Ended:
    """Apply a role by itself, with some values changed.

    Args:
        host: Where to apply it.
        role: Its name.
        arguments: Further arguments of ansible-playbook.
        entry_point: Which of its task files.
        values: Variables that win over the inventory's.

    Returns:
        The ended process, as of `run_playbook`.
    """
    extra = json.dumps(values | {"role": role, "entry_point": entry_point})
    return run_playbook("../molecule/shared/role", host.backend.get_hostname(), *arguments, "--extra-vars", extra)


def said(ended: Ended) -> str:
    """Undo how Ansible folds the lines of what it says."""
    return " ".join(ended.stdout.split())
