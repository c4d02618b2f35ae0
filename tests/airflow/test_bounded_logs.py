"""How much of a task's log the webserver reads, wherever the log is."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import bounded_logs
import pytest
import uvicorn
from airflow._shared.module_loading import import_string
from airflow.providers.amazon.aws.log.s3_task_handler import S3RemoteLogIO
from airflow.utils.log import file_task_handler
from airflow.utils.net import get_hostname
from airflow.utils.serve_logs.log_server import create_app
from airflow.utils.state import TaskInstanceState
from bounded_logs import FileTaskHandler, shares

BOUND = 2000
PATH = "dag_id=loud/run_id=one/task_id=shout/attempt=1.log"
OBJECT = f"logs/{PATH}"
# More than a hundred times the bound, on lines that say which they are.
LARGE = "".join(f"line {number} {'x' * 40}\n" for number in range(5000)).encode()


class Storage:
    """A bucket, by the calls that are made of S3Hook and its client."""

    def __init__(self) -> None:
        """Hold nothing."""
        self.objects: dict[str, bytes] = {}
        self.sent = 0

    def iter_file_metadata(self, prefix: str, _bucket: str) -> Iterator[dict]:
        """List what has a prefix."""
        for key, content in self.objects.items():
            if key.startswith(prefix):
                yield {"Key": key, "Size": len(content)}

    def get_conn(self) -> "Storage":
        """Be the client, too."""
        return self

    def get_object(self, **asked: str) -> dict:
        """Send an object, or the end that is asked for."""
        content = self.objects[asked["Key"]]
        content = content[-int(asked["Range"].removeprefix("bytes=-")) :] if "Range" in asked else content
        self.sent += len(content)
        return {"Body": BytesIO(content)}


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Storage:
    """Let Airflow find a bucket."""
    remote = S3RemoteLogIO(remote_base="s3://bucket/logs", base_log_folder=tmp_path, delete_local_copy=False)
    remote.hook = Storage()
    monkeypatch.setattr(bounded_logs, "get_remote_task_log", lambda: remote)
    return remote.hook


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch, storage: Storage, tmp_path: Path) -> FileTaskHandler:
    """Make what reads logs."""
    del storage
    monkeypatch.setenv("AIRFLOW__API__SECRET_KEY", "s" * 64)
    handler = FileTaskHandler(str(tmp_path))
    handler.bound = BOUND
    monkeypatch.setattr(handler, "_render_filename", lambda *_: PATH)
    monkeypatch.setattr(handler, "_get_executor_get_task_log", lambda _: lambda *_: ([], []))
    return handler


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Name the file of a running task's log."""
    path = tmp_path / PATH
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def log_server(handler: FileTaskHandler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Run Airflow's log server, on a host whose files the webserver does not see."""
    handler.local_base = "/srv/airflow/logs"
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT", str(listening.getsockname()[1]))
        server = uvicorn.Server(uvicorn.Config(create_app(), log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield
        server.should_exit = True
        thread.join()


def read(handler: file_task_handler.FileTaskHandler, state: TaskInstanceState, hostname: str = "") -> list[str]:
    """Read the log of a task's first try, as the API does, without the lines that say where it comes from."""
    task = SimpleNamespace(state=state, hostname=hostname or get_hostname(), try_number=1, task=None, executor=None)
    stream, _ = handler.read(task, 1, {})
    events = [message.event for message in stream]
    return events[events.index("::endgroup::") + 1 :]


def assert_that_the_end_is_shown(events: list[str], whole: str) -> None:
    size = f"This log has {len(LARGE) // 2**20} MB. Shown are the last 0.0 MB. The whole log: {whole}"
    assert events[0] == size
    assert [event.split()[1] for event in events[1:]] == [str(number) for number in range(5001 - len(events), 5000)]
    assert BOUND * 0.9 < sum(len(event) + 1 for event in events[1:]) <= BOUND


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ([], []),
        ([30], [30]),
        ([300], [100]),
        ([300, 10, 0], [90, 10, 0]),
        ([300, 10, 300, 20], [35, 10, 35, 20]),
        ([300] * 3, [33, 33, 34]),
    ],
)
def test_files_share_the_bound(sizes: list[int], wanted: list[int]) -> None:
    assert shares(sizes, 100) == wanted


def test_airflow_itself_has_no_bound(handler: FileTaskHandler, file: Path) -> None:
    """Else the class is superfluous."""
    file.write_bytes(LARGE)
    unbounded = file_task_handler.FileTaskHandler(handler.local_base)
    assert len(unbounded._read_from_local(file)[1]) == 1
    assert sum(1 for _ in unbounded._read_from_local(file)[1][0]) == 5000
    assert not hasattr(S3RemoteLogIO, "stream")


def test_of_a_large_stored_log_the_end_is_read(handler: FileTaskHandler, storage: Storage) -> None:
    storage.objects[OBJECT] = LARGE
    assert_that_the_end_is_shown(read(handler, TaskInstanceState.SUCCESS), f"s3://bucket/{OBJECT}")
    assert storage.sent == BOUND


def test_small_stored_logs_are_read_whole(handler: FileTaskHandler, storage: Storage) -> None:
    storage.objects = {OBJECT: b"begin\nend\n", f"{OBJECT}.trigger.7.log": b"deferred"}
    assert sorted(read(handler, TaskInstanceState.SUCCESS)) == ["begin", "deferred", "end"]


def test_a_storage_that_fails_is_said(
    handler: FileTaskHandler, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.objects[OBJECT] = LARGE
    monkeypatch.setattr(storage, "get_object", lambda **_: 1 / 0)
    said = read(handler, TaskInstanceState.SUCCESS)
    assert said == [f"Could not read logs from s3://bucket/{OBJECT} with error: division by zero"]


def test_of_a_large_log_of_a_task_that_runs_here_the_end_is_read_once(handler: FileTaskHandler, file: Path) -> None:
    file.write_bytes(LARGE)
    assert_that_the_end_is_shown(read(handler, TaskInstanceState.RUNNING), f"{get_hostname()}:{file}")


@pytest.mark.usefixtures("log_server")
def test_of_a_large_log_of_a_task_that_runs_elsewhere_the_end_is_read(handler: FileTaskHandler, file: Path) -> None:
    file.write_bytes(LARGE)
    events = read(handler, TaskInstanceState.RUNNING, "localhost")
    assert_that_the_end_is_shown(events, f"localhost:/srv/airflow/logs/{PATH}")
    file.write_bytes(LARGE[:96])
    assert [event.split()[1] for event in read(handler, TaskInstanceState.RUNNING, "localhost")] == ["0", "1"]
    file.unlink()
    assert read(handler, TaskInstanceState.RUNNING, "localhost") == []


def test_a_log_server_that_is_away_is_said_by_airflow(
    handler: FileTaskHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT", "9")
    task = SimpleNamespace(hostname="localhost", task=None)
    sources, streams = handler._read_from_logs_server(task, PATH)
    assert "Could not read served logs" in sources[0]
    assert not streams


def test_links_to_elsewhere_and_pipes_are_not_read(
    handler: FileTaskHandler, file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    secret.write_text("secret")
    file.symlink_to(secret)
    os.mkfifo(f"{file}.pipe")
    assert handler._read_from_local(file) == ([], [])


@pytest.mark.parametrize(
    ("content", "wanted"),
    [(b"x" * 5000, "x" * BOUND), ("é".encode() * 5000 + b"\n", "�" + "é" * (BOUND // 2 - 1))],
    ids=["one line without an end", "one line, begun amid a character"],
)
def test_a_line_longer_than_the_bound_is_cut(handler: FileTaskHandler, file: Path, content: bytes, wanted: str) -> None:
    file.write_bytes(content)
    assert read(handler, TaskInstanceState.RUNNING)[1] == wanted


def test_airflow_takes_the_class_from_its_logging_configuration() -> None:
    task = bounded_logs.LOGGING_CONFIG["handlers"]["task"]
    assert import_string(task["class"]) is FileTaskHandler
    # With one of its own, logs would be uploaded by what only reads them.
    assert not hasattr(bounded_logs, "REMOTE_TASK_LOG")
