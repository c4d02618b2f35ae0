"""What `make audit` finds, asked of a database of vulnerabilities that runs here."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
FOUND = {"id": "GHSA-lvao-test-1111", "summary": "A hole", "affected": []}


class Database(BaseHTTPRequestHandler):
    """Answers as OSV does, and knows of one hole, in any version of `uv`."""

    def do_POST(self) -> None:
        """Answer a query."""
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps({"vulns": [FOUND]} if query["package"]["name"] == "uv" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Run the database."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Database) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def audit(folder: Path, database: str, ignored: str) -> subprocess.CompletedProcess[str]:
    """Audit the locked packages, with some vulnerabilities passed over."""
    (folder / "bin").mkdir()
    for program in ("audit", "project.py", "packages.py", "locked.py"):
        shutil.copy(PROJECT / "bin" / program, folder / "bin")
    shutil.copy(PROJECT / "pyproject.toml", folder)
    (folder / "dags").mkdir()
    shutil.copytree(PROJECT / "requirements", folder / "requirements")
    (folder / "requirements/ignored").write_text(ignored)
    with (folder / "requirements/airflow.txt").open("a") as lock:
        lock.write("app @ ./app\nother @ git+https://git.lvao.test/other@0123456\n")  # no database knows these
    return subprocess.run(
        [folder / "bin/audit", "--vulnerability-service", "osv", "--osv-url", database, "--aliases", "off"],
        env=os.environ | {"PIP_AUDIT_CACHE_DIR": str(folder)},
        text=True,
        capture_output=True,
        check=False,
    )


def test_a_known_vulnerability_is_found(tmp_path: Path, database: str) -> None:
    ended = audit(tmp_path, database, "# none\n\n")
    assert ended.returncode == 1, ended.stderr
    assert "GHSA-lvao-test-1111" in ended.stdout
    assert "Found 1 known vulnerability in 1 package" in ended.stderr


def test_one_that_is_explained_is_passed_over(tmp_path: Path, database: str) -> None:
    ended = audit(tmp_path, database, "GHSA-lvao-test-1111 only on Windows\n")
    assert ended.returncode == 0, ended.stderr
    assert "No known vulnerabilities found, 1 ignored" in ended.stderr


def test_one_without_a_reason_is_not(tmp_path: Path, database: str) -> None:
    ended = audit(tmp_path, database, "GHSA-lvao-test-1111\n")
    assert ended.returncode == 1
    assert "requirements/ignored gives no reason for GHSA-lvao-test-1111" in ended.stderr


def test_a_database_that_does_not_answer_is_no_success(tmp_path: Path) -> None:
    assert audit(tmp_path, "http://127.0.0.1:1/v1/query", "").returncode != 0
