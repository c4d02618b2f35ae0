"""Tests of the module that packs the DAGs."""

import importlib.util
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "roles/airflow/library/deterministic_archive.py"


@pytest.fixture
def pack() -> Callable[[Path, str, list[str]], bytes]:
    spec = importlib.util.spec_from_file_location("deterministic_archive", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pack


def write(folder: Path) -> Path:
    (folder / "lib").mkdir(parents=True)
    (folder / "tests").mkdir()
    (folder / "a.py").write_text("1")
    (folder / "lib/b.sh").write_text("2")
    (folder / "lib/b.sh").chmod(0o755)
    (folder / "link").symlink_to("a.py")
    (folder / "tests/t.py").write_text("3")
    return folder


def test_equal_content_gives_equal_bytes(pack: Callable, tmp_path: Path) -> None:
    one, other = write(tmp_path / "one"), write(tmp_path / "other")
    os.utime(other / "a.py", (0, 0))
    assert pack(one, "dags", ["tests"]) == pack(other, "dags", ["tests"])


@pytest.mark.parametrize("change", ["content", "name", "mode"])
def test_another_content_gives_other_bytes(pack: Callable, tmp_path: Path, change: str) -> None:
    folder = write(tmp_path / "dags")
    before = pack(folder, "dags", [])
    if change == "content":
        (folder / "a.py").write_text("2")
    elif change == "name":
        (folder / "a.py").rename(folder / "c.py")
    else:
        (folder / "a.py").chmod(0o755)
    assert pack(folder, "dags", []) != before


def test_the_archive_holds_what_is_not_excluded(pack: Callable, tmp_path: Path) -> None:
    content = pack(write(tmp_path / "dags"), "dags", ["tests", "*.sh"])
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert archive.getnames() == ["dags", "dags/a.py", "dags/lib", "dags/link"]
        assert {member.uid for member in archive} == {0}


def test_what_is_no_file_is_refused(pack: Callable, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is neither a file"):
        pack(tmp_path, "dags", [])
