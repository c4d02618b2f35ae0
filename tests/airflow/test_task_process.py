"""What the code of a task finds in its process, what its log shows, and how it ends when it crashes."""

import json
import multiprocessing
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, quote_plus

import httpx
import pytest
import task_process
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import log
from airflow.sdk._shared.secrets_masker import SecretsMasker
from airflow.sdk.api.client import Client
from airflow.sdk.api.datamodels._generated import BundleInfo, TaskInstance
from airflow.sdk.execution_time import supervisor

ODD = """pä"$%'\\x/q& +z"""
FERNET_KEYS = ["bmV3LW5ldy1uZXctbmV3LW5ldy1uZXctbmV3LW5ldy0=", "b2xkLW9sZC1vbGQtb2xkLW9sZC1vbGQtb2xkLW9sZC0="]
SECRETS = {
    "AIRFLOW__API_AUTH__JWT_SECRET": "jwt-secret-of-64-bytes",
    "AIRFLOW__API__SECRET_KEY": "secret-key-of-the-api",
    "AIRFLOW__CORE__FERNET_KEY": ",".join(FERNET_KEYS),
    "AIRFLOW__SMTP__SMTP_PASSWORD": "password-of-the-mail",
    "AIRFLOW_CONN_S3LOGS": json.dumps(
        {"conn_type": "aws", "login": "SCWACCESSKEY", "password": ODD, "extra": {"region_name": "fr-par"}}
    ),
    "AIRFLOW_CONN_BY_URI": f"http://user:{quote(ODD, safe='')}@example.org/?api_key=key-in-a-query&timeout=30",
    "AIRFLOW_VAR_MY_TOKEN": "token-of-a-variable",
    "AIRFLOW_VAR_SETTINGS": json.dumps({"password": "password-in-json", "colour": "burgundy"}),
    "DATABASE_URL": "postgresql://user:p%40ssword@example.org/name",
    "SITE_API_KEY": "key-of-the-site",
}
VALUES = [
    ODD,
    *FERNET_KEYS,
    *("jwt-secret-of-64-bytes", "secret-key-of-the-api", "password-of-the-mail", "SCWACCESSKEY", "key-in-a-query"),
    *("token-of-a-variable", "password-in-json", "p%40ssword", "p@ssword", "key-of-the-site"),
]
DAG = """
import ctypes, os, subprocess
from airflow.sdk import dag, task

@dag(schedule=None)
def tried():
    @task
    def show():
        print(dict(os.environ))
        print(*os.environ.items(), sep="\\n")
        for command in ("env", "cat /proc/$PPID/environ | tr '\\\\0' '\\\\n'", "export -p"):
            print(subprocess.run(["bash", "-c", command], capture_output=True, text=True).stdout)

    @task
    def crash():
        ctypes.string_at(1)

    show()
    crash()

tried()
"""
NOW = "2026-01-01T00:00:00Z"
RUN = dict.fromkeys(("logical_date", "data_interval_start", "data_interval_end", "run_after", "start_date"), NOW) | {
    **{"dag_id": "tried", "run_id": "run", "end_date": None, "run_type": "manual", "state": "running"},
    **{"consumed_asset_events": [], "partition_key": None},
}


def answer(request: httpx.Request) -> httpx.Response:
    """Answer as the Execution API does."""
    begins = request.url.path.endswith("/run")
    return httpx.Response(200, json={"dag_run": RUN, "max_tries": 0, "should_retry": False} if begins else {})


def run_task(folder: str, task_id: str) -> None:
    """Run a task as a worker of the scheduler does."""
    os.setpgrp()
    task_process.prepare()
    Path(folder, "proc").write_bytes(Path("/proc/self/environ").read_bytes())
    names = {"dag_id": "tried", "run_id": "run", "task_id": task_id, "queue": "default"}
    numbers = {"try_number": 1, "map_index": -1, "pool_slots": 1, "priority_weight": 1}
    supervisor.supervise_task(
        ti=TaskInstance(id=uuid.uuid4(), dag_version_id=uuid.uuid4(), **names, **numbers),
        bundle_info=BundleInfo(name="dags-folder"),
        dag_rel_path="tried.py",
        token="",
        client=Client(base_url="http://api.invalid", token="", transport=httpx.MockTransport(answer)),
        log_path="log",
        subprocess_logs_to_stdout=True,
    )


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[str, str]]:
    """Run a task in a process of its own, and return its log and what goes to the journal."""
    (tmp_path / "tried.py").write_text(DAG)
    folders = dict.fromkeys(("AIRFLOW__CORE__DAGS_FOLDER", "AIRFLOW__LOGGING__BASE_LOG_FOLDER"), str(tmp_path))
    for name, value in (SECRETS | folders).items():
        monkeypatch.setenv(name, value)

    def run(task_id: str) -> tuple[str, str]:
        # With an environment, and handlers of signals, that no other test has changed.
        worker = multiprocessing.get_context("spawn").Process(target=run_task, args=(str(tmp_path), task_id))
        worker.start()
        worker.join(120)
        ended = worker.exitcode is not None
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)  # the task, too
        assert ended, "it does not end"
        log = "\n".join(json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines())
        return log, capfd.readouterr().out

    return run


def test_the_log_of_a_task_that_shows_its_environment_has_no_secrets(
    run: Callable[[str], tuple[str, str]], tmp_path: Path
) -> None:
    log, journal = run("show")
    assert "AIRFLOW_CONN_BY_URI" in log
    assert "'colour': " not in log  # the variable is one string
    assert "burgundy" in log
    assert "fr-par" in log
    assert "AIRFLOW_CONN_BY_URI" in journal
    assert [value for value in VALUES if any(form in log + journal for form in task_process.spellings(value))] == []
    assert [name for name in SECRETS if task_process.UNNEEDED.fullmatch(name) and name in log] == []
    assert log.count("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=airflow-db-not-allowed:///") == 1
    # What another process of the same user finds of the scheduler.
    assert b"PATH" not in (tmp_path / "proc").read_bytes()


def test_a_task_that_crashes_ends_and_says_where(run: Callable[[str], tuple[str, str]]) -> None:
    log, _ = run("crash")
    assert "Fatal Python error: Segmentation fault" in log
    assert re.search(r'tried\.py", line \d+ in crash', log)
    assert "Received SIGSEGV" in log


def test_airflow_still_leaves_its_handler_of_crashes_in_the_process(tmp_path: Path) -> None:
    (tmp_path / "tried.py").write_text(DAG)
    before = signal.getsignal(signal.SIGSEGV)
    try:
        BundleDagBag(str(tmp_path / "tried.py"), bundle_path=tmp_path, bundle_name="dags-folder")
        left = signal.getsignal(signal.SIGSEGV)
    finally:
        signal.signal(signal.SIGSEGV, before)
    assert callable(left), "apache/airflow#57174 is mended: of end_at_crashes only faulthandler.enable() is needed"


def exported(secret: str) -> str:
    """Show a variable as a shell does."""
    return subprocess.check_output(["bash", "-c", "export -p"], env={"SECRET": secret}, text=True).split("SECRET=")[1]


@pytest.mark.parametrize("secret", [ODD, 'it\'s "quoted"', "back\\slash", "per%cent", "plain", "a b+c", "dollar$HOME"])
@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        json.dumps,
        lambda secret: json.dumps(secret, ensure_ascii=False),
        lambda secret: repr({"connection": json.dumps({"password": secret}), "other": "it's"}),
        lambda secret: json.dumps({"connection": json.dumps({"password": secret})}),
        quote,
        quote_plus,
        lambda secret: quote(secret, safe=""),
        shlex.quote,
        exported,
        lambda secret: exported(json.dumps({"password": secret})),
    ],
)
def test_a_secret_is_masked_however_it_is_spelt(show: Callable[[str], str], secret: str) -> None:
    masker = SecretsMasker()
    masker.secret_mask_adapter = task_process.spellings
    masker.add_mask(secret)
    shown = masker.redact(show(secret))
    assert "***" in shown
    # At most what quotes the secret is left of it.
    assert [word for word in re.findall(r"\w{3,}", secret) if word in shown] == []


def test_each_line_of_a_long_secret_is_masked() -> None:
    found = task_process.spellings("-----BEGIN KEY-----\nfirst-line-of-the-key\nend\n-----END KEY-----")
    assert "first-line-of-the-key" in found
    assert {"end", "-----BEGIN KEY-----"}.isdisjoint(found)


def test_what_only_sounds_like_a_secret_is_not_masked() -> None:
    environment = {"USE_TOKEN": "false", "HTTPS_PROXY": "http://proxy.example.org:3128", "TOKEN_SECONDS": "3600"}
    environment |= {"AIRFLOW__LOGGING__SECRET_MASK_ADAPTER": "some.function", "NO_PROXY": "localhost"}
    environment |= {"AIRFLOW_CONN_BROKEN": "{", "AIRFLOW_CONN_ODD": "http://[::1", "ENVIRONMENT": "preprod"}
    sounds = re.compile("token|proxy|secret", re.IGNORECASE)
    assert task_process.secrets_in(environment, [], lambda name: bool(sounds.search(name))) == set()


def test_a_task_begins_with_the_masks_of_the_environment_alone() -> None:
    masker = SecretsMasker()
    masker.add_mask("of-the-environment")
    task_process._keep_masks(masker)
    masker.add_mask("of-another-task")
    masker.reset_masker()
    assert masker.redact("of-the-environment of-another-task") == "*** of-another-task"
    masker.add_mask("of-this-task")
    masker.reset_masker()
    assert masker.redact("of-the-environment of-this-task") == "*** of-this-task"


def lines() -> Generator[None, bytes, None]:
    """Take lines, and forget them."""
    while True:
        yield


@pytest.mark.parametrize(("widened", "most"), [(True, 400), (False, 9000)])
def test_a_long_line_is_read_in_large_pieces(monkeypatch: pytest.MonkeyPatch, widened: bool, most: int) -> None:
    monkeypatch.setattr(supervisor, "make_buffered_socket_reader", supervisor.make_buffered_socket_reader)
    if widened:
        task_process.read_long_lines()
    ours, theirs = socket.socketpair()
    read, _ = supervisor.make_buffered_socket_reader(lines(), on_close=lambda _: None)
    writer = threading.Thread(target=theirs.sendall, args=(b"x" * 2**23 + b"\n",))
    writer.start()
    writer.join(0.1)
    reads = 0
    while writer.is_alive() or select.select([ours], [], [], 0.1)[0]:
        read(ours)
        reads += 1
    assert reads < most
    # As many as Airflow makes: else read_long_lines is superfluous.
    assert widened or reads >= 2**23 / 4096


def test_another_adapter_of_the_site_still_acts() -> None:
    adapt = task_process._with_spellings(str.upper)
    assert {"secret", "SECRET"} <= adapt("secret")


def test_the_group_may_read_a_log_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(tmp_path))
    # It is restored at the end.
    monkeypatch.setattr(log, "init_log_file", log.init_log_file)
    task_process.let_the_group_read_logs()
    mask = os.umask(0o077)
    file = log.init_log_file("dag_id=shop/attempt=1.log")
    assert os.umask(mask) == 0o077
    assert file.parent.stat().st_mode & 0o777 == 0o750
    assert file.stat().st_mode & 0o777 == 0o640
