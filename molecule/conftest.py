"""What the tests of all scenarios share: Airflow's API as seen from the host, and the host's own secrets."""

import json
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from testinfra.host import Host

PROJECT = Path(__file__).parents[1]
SECRETS = PROJECT / ".cache/molecule"
T = TypeVar("T")


def wait_for(check: Callable[[], T], seconds: float, what: str) -> T:
    """Call a check once a second until what it returns is true.

    Args:
        check: What to call.
        seconds: How long to go on.
        what: What is waited for, for the message.

    Returns:
        The first true result.

    Raises:
        AssertionError: There was none in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := check():
            return result
        time.sleep(1)
    message = f"waited {seconds} s in vain for {what}"
    raise AssertionError(message)


class Airflow:
    """Airflow's API, called on the host itself."""

    def __init__(self, host: Host) -> None:
        """Remember the host.

        Args:
            host: Where the webserver runs.
        """
        self.host = host
        self.password = (SECRETS / "airflow_admin_password").read_text().strip()

    def login(self, password: str) -> tuple[int, str]:
        """Ask for a token.

        Args:
            password: The admin account's password, or a wrong one.

        Returns:
            The HTTP status, and the token or an empty string.
        """
        status, answer = self._call("POST", "/auth/token", {"username": "admin", "password": password}, token="")
        return status, answer.get("access_token", "")

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Call the API as admin.

        Args:
            method: HTTP method.
            path: Path below `/api/v2`.
            body: What to send, as JSON.

        Returns:
            The HTTP status, and the answer.
        """
        return self._call(method, f"/api/v2{path}", body, self.login(self.password)[1])

    def _call(self, method: str, path: str, body: dict[str, Any] | None, token: str) -> tuple[int, Any]:
        command = ["curl", "--silent", "--request", method, "--write-out", "\n%{http_code}"]
        command += ["--header", "Content-Type: application/json", "--header", f"Authorization: Bearer {token}"]
        command += ["--data", json.dumps(body)] if body else []
        answer, status = self.host.run(shlex.join([*command, f"http://127.0.0.1:8080{path}"])).stdout.rsplit("\n", 1)
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
        path = f"/dags/{dag_id}"
        wait_for(lambda: self.call("GET", path)[0] == 200, 30, f"the DAG {dag_id} to show up")
        status, run = self.call("POST", f"{path}/dagRuns", {"logical_date": None, "conf": conf or {}})
        assert status == 200, run
        return run["dag_run_id"]

    def state(self, dag_id: str, run_id: str) -> str:
        """Ask for the state of a run."""
        return self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")[1]["state"]

    def finish(self, dag_id: str, run_id: str) -> str:
        """Wait for the end of a run.

        Returns:
            Its last state.
        """
        ended = {"success", "failed"}
        return wait_for(lambda: ended & {self.state(dag_id, run_id)}, 120, f"{dag_id} to end").pop()

    def log(self, dag_id: str, run_id: str, task_id: str) -> str:
        """Read the log of a task's first try through the API."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        return json.dumps(self.call("GET", f"{path}/logs/1")[1])


@pytest.fixture(scope="module")
def airflow(host: Host) -> Airflow:
    """Airflow's API on the scenario's host."""
    return Airflow(host)


def run_playbook(playbook: str, host: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook of the project against a host of the scenario, as an operator would.

    Args:
        playbook: Its name in `playbooks/`, without the ending.
        host: The host's name in the inventory.
        arguments: Further arguments of ansible-playbook.

    Returns:
        The ended process, with standard output and error in `stdout`.
    """
    command = ["ansible-playbook", "-i", "molecule/inventory", "--limit", host, f"playbooks/{playbook}.yml", *arguments]
    return subprocess.run(
        command, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
