"""Which versions `make lock` and `make upgrade` take, from an index that runs here."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
# Ages in days.
RELEASES = {"kept": {"1.0": 30, "2.0": 8, "3.0": 1}, "added": {"1.0": 30, "2.0": 0}}
PYPROJECT = """
[project]
name = "test"
version = "1.0"
[dependency-groups]
airflow = ["kept", "added"]
dag-tests = []
dev = []
uv = []
"""


class Index(BaseHTTPRequestHandler):
    """Answers as PyPI does, of packages that need no others."""

    def do_GET(self) -> None:
        """Answer with the files of a package, or with what one of them needs."""
        name = self.path.strip("/").split("/")[-1]
        if name.endswith(".metadata"):
            package, version, _ = name.split("-", 2)
            kind, answer = "text/plain", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        else:
            files = [
                {
                    "filename": f"{name}-{version}-py3-none-any.whl",
                    "url": f"/files/{name}-{version}-py3-none-any.whl",
                    "hashes": {"sha256": "0" * 64},
                    "core-metadata": True,
                    "upload-time": (datetime.now(UTC) - timedelta(days=age)).isoformat(),
                }
                for version, age in RELEASES[name].items()
            ]
            answer = json.dumps({"meta": {"api-version": "1.1"}, "name": name, "files": files})
            kind = "application/vnd.pypi.simple.v1+json"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def index() -> Iterator[str]:
    """Run the index."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()


@pytest.mark.parametrize(
    ("command", "locked", "taken"),
    [
        (["lock"], "1.0", {"kept": "1.0", "added": "1.0"}),
        (["lock"], "3.0", {"kept": "3.0", "added": "1.0"}),
        (["upgrade"], "1.0", {"kept": "2.0", "added": "1.0"}),
        (["upgrade", "LOCK_AGE=0 days"], "1.0", {"kept": "3.0", "added": "2.0"}),
        (["upgrade", "LOCK_AGE="], "1.0", {"kept": "3.0", "added": "2.0"}),
    ],
)
def test_a_version_is_taken_once_it_is_a_week_old(
    tmp_path: Path, index: str, command: list[str], locked: str, taken: dict[str, str]
) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/airflow.txt").write_text(f"kept=={locked} \\\n    --hash=sha256:{'0' * 64}\n")
    for path in ("bin/setup", ".venv-airflow/bin/python"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).symlink_to("/bin/true")
    (tmp_path / "roles/airflow/vars/main").mkdir(parents=True)
    shutil.copy(PROJECT / "Makefile", tmp_path)
    (tmp_path / ".venv").symlink_to(PROJECT / ".venv")
    known = {"UV_DEFAULT_INDEX": index, "UV_CACHE_DIR": str(tmp_path / "cache"), "UV_NO_CONFIG": "true"}
    hidden = ("UV_", "PIP_", "MAKE", "LOCK_")
    ours = {name: text for name, text in os.environ.items() if not name.startswith(hidden)}
    ended = subprocess.run(
        ["make", *command], cwd=tmp_path, env=ours | known, text=True, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    lines = (tmp_path / "requirements/airflow.txt").read_text().splitlines()
    assert dict(line.split()[0].split("==") for line in lines if "==" in line) == taken
