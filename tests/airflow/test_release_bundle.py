"""Where a task finds its DAG, while deploys go on."""

import fcntl
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from airflow import settings
from airflow.utils.file import get_unique_dag_module_name
from release_bundle import ReleaseDagBundle


@pytest.fixture
def current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make two releases, and a link to the first, where the DAGs folder is."""
    for name in ("one", "two"):
        (tmp_path / name / "dags").mkdir(parents=True)
    link = tmp_path / "current"
    link.symlink_to(tmp_path / "one")
    monkeypatch.setattr(settings, "DAGS_FOLDER", str(link / "dags"))
    return link


def move(link: Path, release: str) -> None:
    link.unlink()
    link.symlink_to(link.parent / release)


def test_a_task_keeps_to_the_release_that_it_has_begun_with(current: Path) -> None:
    first = ReleaseDagBundle(name="dags-folder", version=None)
    move(current, "two")
    second = ReleaseDagBundle(name="dags-folder", version=None)
    folders = [current.parent / name / "dags" for name in ("one", "two")]
    assert [first.path, second.path] == folders
    assert first.get_current_version() is None


def test_a_task_finds_the_folders_of_its_release_after_a_deploy(current: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (current.parent / name / "scripts").mkdir()
        (current.parent / name / "scripts/edition_of_scripts.py").write_text(f"EDITION = {name!r}\n")
    paths = f"{current}/libexec/python:{current}/scripts:/srv{current}"
    monkeypatch.setattr(os, "environ", {"LVAO_RELEASE": str(current), "PYTHONPATH": paths, "OTHER": f"{current}s"})
    monkeypatch.setattr(sys, "path", [*sys.path, f"{current}/scripts"])
    bundle = ReleaseDagBundle(name="dags-folder")
    assert os.environ["LVAO_RELEASE"] == str(current), "a scheduler asks for its bundles, too"
    bundle.initialize()
    move(current, "two")
    release = current.parent / "one"
    assert os.environ == {
        "LVAO_RELEASE": str(release),
        "PYTHONPATH": f"{release}/libexec/python:{release}/scripts:/srv{current}",
        "OTHER": f"{current}s",
    }
    assert importlib.import_module("edition_of_scripts").EDITION == "one"
    del sys.modules["edition_of_scripts"]


def test_live_dags_are_reached_through_the_release(current: Path) -> None:
    live = current.parent / "live"
    live.mkdir()
    folder = current.parent / "one/dags"
    folder.rmdir()
    folder.symlink_to(live)
    assert ReleaseDagBundle(name="dags-folder").path == folder


def test_no_release_is_an_error(current: Path) -> None:
    move(current, "three")
    with pytest.raises(FileNotFoundError):
        ReleaseDagBundle(name="dags-folder")


def test_who_locks_its_release_does_not_hold_a_task_up(current: Path) -> None:
    descriptor = os.open(current, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert ReleaseDagBundle(name="dags-folder").path.parent.name == "one"
    os.close(descriptor)


def test_a_class_of_a_dag_file_is_found_by_its_name_of_another_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [get_unique_dag_module_name(str(tmp_path / release / "dags/my_dag.py")) for release in ("one", "two")]
    loaded = ModuleType(names[1])
    monkeypatch.setitem(sys.modules, names[1], loaded)
    try:
        assert importlib.import_module(names[0]) is loaded
    finally:
        sys.modules.pop(names[0], None)
    assert loaded.__name__ == names[1]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(names[0] + "_other")


def test_its_release_is_locked_until_it_ends(current: Path) -> None:
    bundles = [ReleaseDagBundle(name="dags-folder") for _ in range(2)]
    descriptor = os.open(current.parent / "one", os.O_RDONLY)
    while bundles:
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        bundles.pop()
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
