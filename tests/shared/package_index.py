"""An index of packages that runs here, and source folders of packages that need no other to be built."""

import gzip
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# It builds the folder that it lies in.
BACKEND = """
import pathlib, zipfile

NAME, VERSION, NEEDS = {name!r}, "1.0", {needs!r}

def build_wheel(folder, settings=None, metadata=None):
    name = f"{{NAME}}-{{VERSION}}-{tag}.whl"
    facts = f"{{NAME}}-{{VERSION}}.dist-info"
    needs = "".join(f"Requires-Dist: {{one}}\\n" for one in NEEDS)
    about = f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: {{VERSION}}\\n{{needs}}"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as wheel:
        wheel.writestr(f"{{NAME}}.py", pathlib.Path("code.py").read_text())
        wheel.writestr(f"{{facts}}/METADATA", about)
        wheel.writestr(f"{{facts}}/WHEEL", "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: {tag}\\n")
        wheel.writestr(f"{{facts}}/RECORD", "")
    return name

def build_editable(folder, settings=None, metadata=None):
    return build_wheel(folder)
"""
PYPROJECT = """
[project]
name = "{name}"
version = "1.0"
dependencies = {needs}
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def source(folder: Path, name: str, needs: tuple[str, ...] = (), tag: str = "py3-none-any") -> Path:
    """Write the source folder of a package.

    Args:
        folder: It.
        name: The package's name.
        needs: What it needs.
        tag: What its wheel is for.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT.format(name=name, needs=list(needs)))
    (folder / "backend.py").write_text(BACKEND.format(name=name, needs=needs, tag=tag))
    (folder / "code.py").write_text("ANSWER = 1\n")
    return folder


@dataclass
class Release:
    """A version of a package in the index.

    Attributes:
        age: How old it is, in days.
        needs: The packages that it needs.
        tag: What its wheel is for; empty where it has a source archive alone.
    """

    age: float = 30
    needs: tuple[str, ...] = ()
    tag: str = "py3-none-any"

    def file(self, name: str, version: str) -> str:
        """Name its file."""
        return f"{name}-{version}-{self.tag}.whl" if self.tag else f"{name}-{version}.tar.gz"

    def metadata(self, name: str, version: str) -> str:
        """Say what it needs."""
        needs = "".join(f"Requires-Dist: {one}\n" for one in self.needs)
        return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"

    def content(self, name: str, version: str) -> bytes:
        """Make its file, which is always the same."""
        stream = io.BytesIO()
        if self.tag:
            facts = f"{name}-{version}.dist-info"
            about = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {self.tag}\n"
            with zipfile.ZipFile(stream, "w") as wheel:
                for path, text in {
                    f"{name}.py": "",
                    f"{facts}/METADATA": self.metadata(name, version),
                    f"{facts}/WHEEL": about,
                    f"{facts}/RECORD": "",
                }.items():
                    wheel.writestr(zipfile.ZipInfo(path), text)
            return stream.getvalue()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for path, text in {
                "PKG-INFO": self.metadata(name, version),
                "pyproject.toml": PYPROJECT.format(name=name, needs=list(self.needs)),
                "backend.py": BACKEND.format(name=name, needs=self.needs, tag="py3-none-any"),
                "code.py": "ANSWER = 1\n",
            }.items():
                facts = tarfile.TarInfo(f"{name}-{version}/{path}")
                facts.size = len(text)
                archive.addfile(facts, io.BytesIO(text.encode()))
        return gzip.compress(stream.getvalue(), mtime=0)


@dataclass
class Index:
    """The index.

    Attributes:
        releases: The versions of each package.
        url: Its address, while it runs.
        asked: The paths that were asked for.
    """

    releases: dict[str, dict[str, Release]]
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def locked(self, name: str, version: str) -> str:
        """Write the line of a version in a lock."""
        content = self.releases[name][version].content(name, version)
        return f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(content).hexdigest()}\n"

    def answer(self, path: str) -> tuple[str, bytes]:
        """Answer as PyPI does.

        Args:
            path: What is asked for.

        Returns:
            The kind of the answer, and the answer.
        """
        name = path.strip("/").split("/")[-1]
        if name in self.releases:
            files = [
                {
                    "filename": release.file(name, version),
                    "url": f"/files/{release.file(name, version)}",
                    "hashes": {"sha256": hashlib.sha256(release.content(name, version)).hexdigest()},
                    "core-metadata": bool(release.tag),
                    "upload-time": (datetime.now(UTC) - timedelta(days=release.age)).isoformat(),
                }
                for version, release in self.releases[name].items()
            ]
            answer = json.dumps({"meta": {"api-version": "1.1"}, "name": name, "files": files})
            return "application/vnd.pypi.simple.v1+json", answer.encode()
        package, version = name.removesuffix(".tar.gz").split("-")[:2]
        release = self.releases[package][version.removesuffix(".metadata")]
        if name.endswith(".metadata"):
            return "text/plain", release.metadata(package, version).encode()
        return "application/octet-stream", release.content(package, version)


@contextmanager
def run(releases: dict[str, dict[str, Release]]) -> Iterator[Index]:
    """Run an index on this machine.

    Args:
        releases: The versions of each package.

    Yields:
        It.
    """
    index = Index(releases)

    class Handler(BaseHTTPRequestHandler):
        """Answers of the index."""

        def do_GET(self) -> None:
            """Answer with the files of a package, with one of them, or with what it needs."""
            index.asked.append(self.path)
            try:
                kind, answer = index.answer(self.path)
            except (KeyError, ValueError):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        index.url = f"http://127.0.0.1:{server.server_port}/simple"
        yield index
        server.shutdown()
