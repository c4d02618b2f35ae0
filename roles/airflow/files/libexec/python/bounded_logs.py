"""What the webserver reads of a task's log: all of a small one, and of a large one the end, with a line that says so.

Airflow 3.3.2 reads all of it. A log in the bucket comes into memory as a whole, several times over, which
apache/airflow#73517 would mend for the bucket alone. A running task's log is read as a file, and once more from the log
server. Whoever asks for JSON then gets every line as an object in memory. Without a bound in Airflow itself this stays.
"""

import json
import os
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import requests
from airflow.config_templates.airflow_local_settings import DEFAULT_LOGGING_CONFIG
from airflow.configuration import conf
from airflow.logging_config import get_remote_task_log
from airflow.models.taskinstance import TaskInstance
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.log.s3_task_handler import S3RemoteLogIO
from airflow.utils.log import file_task_handler
from airflow.utils.log.file_task_handler import LogType
from airflow.utils.net import get_hostname

MIB = 2**20
# Where the parts of a log are, and the lines of each.
Found = tuple[list[str], list[Iterator[str]]]


def shares(sizes: list[int], bound: int) -> list[int]:
    """Share a bound among files: a small one gets all that it has, and the large ones the rest in equal parts.

    Args:
        sizes: How many bytes each file has.
        bound: How many bytes may be read of all of them.

    Returns:
        How many bytes to read of each file.
    """
    result = [0] * len(sizes)
    smallest_first = sorted(range(len(sizes)), key=sizes.__getitem__)
    for done, index in enumerate(smallest_first):
        result[index] = min(sizes[index], bound // (len(sizes) - done))
        bound -= result[index]
    return result


def lines(end: bytes, size: int, whole: str) -> Iterator[str]:
    """Split the end of a log into lines, after one that says what is missing.

    Args:
        end: What was read.
        size: How many bytes the log has.
        whole: Where all of it is.

    Yields:
        The lines.
    """
    text = end.decode(errors="replace")
    if len(end) < size:
        hint = f"This log has {size // MIB} MB. Shown are the last {len(end) / MIB:.1f} MB. The whole log: {whole}"
        yield json.dumps({"event": hint, "level": "warning"})
        # It begins amid a line.
        text = text.partition("\n")[2] or text
    yield from text.split("\n")


def lines_of_file(file: BinaryIO, size: int, share: int, whole: str) -> Iterator[str]:
    """Read the end of a file.

    Args:
        file: The file.
        size: How many bytes it has.
        share: How many to read of them.
        whole: Where the file is.

    Yields:
        Its lines.
    """
    with file:
        file.seek(size - share)
        end = file.read(share)
    yield from lines(end, size, whole)


def lines_of_object(hook: S3Hook, stored: dict, bucket: str, share: int) -> Iterator[str]:
    """Read the end of an object.

    Args:
        hook: What reaches the storage.
        stored: What a listing says of the object.
        bucket: Where the object is.
        share: How many bytes to read.

    Yields:
        Its lines, or as Airflow does, a line that says why there are none.
    """
    size, whole = stored["Size"], f"s3://{bucket}/{stored['Key']}"
    part = {"Range": f"bytes=-{share}"} if share < size else {}
    try:
        end = hook.get_conn().get_object(Bucket=bucket, Key=stored["Key"], **part)["Body"].read()
    except Exception as error:
        yield f"Could not read logs from {whole} with error: {error}"
        return
    yield from lines(end, size, whole)


class FileTaskHandler(file_task_handler.FileTaskHandler):
    """Airflow's own, with a bound for what it reads in each of the places where a log may be."""

    bound = int(os.environ.get("LVAO_LOG_MB", "4")) * MIB

    def _read_remote_logs(self, ti: TaskInstance, try_number: int, metadata: dict | None = None) -> Found:
        remote = get_remote_task_log()
        if not isinstance(remote, S3RemoteLogIO):
            return super()._read_remote_logs(ti, try_number, metadata)
        bucket, prefix = S3Hook.parse_s3_url(
            f"{remote.remote_base.rstrip('/')}/{self._render_filename(ti, try_number)}"
        )
        found = sorted(remote.hook.iter_file_metadata(prefix, bucket), key=lambda stored: stored["Key"])
        parts = shares([stored["Size"] for stored in found], self.bound)
        return [f"s3://{bucket}/{stored['Key']}" for stored in found], [
            lines_of_object(remote.hook, stored, bucket, share) for stored, share in zip(found, parts, strict=True)
        ]

    def _read_from_local(self, worker_log_path: Path) -> Found:
        base = Path(self.local_base).resolve()
        files = {}
        for path in sorted(worker_log_path.parent.glob(f"{worker_log_path.name}*")):
            # As Airflow does: a task may have made a link to elsewhere.
            target = path.resolve()
            if target.is_relative_to(base) and target.is_file():
                try:
                    files[str(path)] = target.open("rb")
                except OSError:
                    continue
        sizes = [os.fstat(file.fileno()).st_size for file in files.values()]
        return list(files), [
            lines_of_file(file, size, share, f"{get_hostname()}:{path}")
            for (path, file), size, share in zip(files.items(), sizes, shares(sizes, self.bound), strict=True)
        ]

    def _read_from_logs_server(self, ti: TaskInstance, worker_log_rel_path: str) -> Found:
        kind = LogType.TRIGGER if getattr(ti, "triggerer_job", False) else LogType.WORKER
        url, path = self._get_log_retrieval_url(ti, worker_log_rel_path, log_type=kind)
        if url and path:
            file = Path(self.local_base, path)
            # The very file that is read above. Its end may have moved meanwhile, and would show twice.
            if urlsplit(url).hostname == get_hostname() and file.is_file():
                return [], []
            try:
                if end := self._end_of_served_log(url, path):
                    return [url], [lines(*end, f"{urlsplit(url).hostname}:{file}")]
            except requests.RequestException:
                pass  # Airflow tries again, and says what is wrong.
        return super()._read_from_logs_server(ti, worker_log_rel_path)

    def _end_of_served_log(self, url: str, path: str) -> tuple[bytes, int] | None:
        # Its content is not read.
        with file_task_handler._fetch_logs_from_service(url, path) as whole:
            size = int(whole.headers.get("Content-Length", 0))
        if not whole.ok or size <= self.bound:
            return None
        request = whole.request.copy()
        request.headers["Range"] = f"bytes=-{self.bound}"
        timeout = conf.getint("api", "log_fetch_timeout_sec", fallback=None)
        with requests.Session() as session, session.send(request, timeout=timeout, stream=True) as end:
            end.raise_for_status()
            return end.raw.read(self.bound), size


# For the setting logging_config_class. The bucket is found as without it.
LOGGING_CONFIG = deepcopy(DEFAULT_LOGGING_CONFIG)
LOGGING_CONFIG["handlers"]["task"]["class"] = f"{__name__}.FileTaskHandler"
