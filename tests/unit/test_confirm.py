"""Which releases the script `confirm` removes."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

LIBEXEC = Path(__file__).parents[2] / "roles/airflow/files/libexec"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Airflow's directory on a host: a release that is live, and an older one that is not kept."""
    for name in ("live", "old"):
        release = tmp_path / "releases" / name
        shutil.copytree(LIBEXEC, release / "libexec")
        (release / "release.json").write_text("{}")
        (release / "lock").touch()
        (release / "venv").symlink_to(tmp_path / "venvs/one")
    (tmp_path / "venvs/one").mkdir(parents=True)
    (tmp_path / "secrets/one").mkdir(parents=True)
    (tmp_path / "secrets/current").symlink_to(tmp_path / "secrets/one")
    (tmp_path / "current").symlink_to(tmp_path / "releases/live")
    (tmp_path / "history").write_text("old\nlive\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text("#!/bin/sh\n")
    (tmp_path / "bin/systemctl").chmod(0o755)
    return tmp_path


def confirm(directory: Path) -> list[str]:
    """Confirm the live release, and keep no other.

    Returns:
        The releases that are left.
    """
    environment = {"PATH": f"{directory}/bin:{os.environ['PATH']}", "LVAO_NOTES": str(directory / "notes")}
    command = [directory / "releases/live/libexec/confirm", "1"]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return sorted(path.name for path in (directory / "releases").iterdir())


def test_a_stranger_s_lock_keeps_no_release(directory: Path) -> None:
    descriptor = os.open(directory / "releases/old", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    assert confirm(directory) == ["live"]
    os.close(descriptor)


@pytest.mark.parametrize("makes_a_lock", [True, False])
def test_what_a_task_runs_is_kept_until_it_ends(directory: Path, makes_a_lock: bool) -> None:
    lock = directory / "releases/old/lock"
    if not makes_a_lock:  # one from before
        lock.unlink()
        lock = lock.parent
    descriptor = os.open(lock, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    assert confirm(directory) == ["live", "old"]
    os.close(descriptor)
    assert confirm(directory) == ["live"]


def test_a_python_stays_for_as_long_as_an_environment_links_to_it(directory: Path) -> None:
    for name in ("3.12.1-uv", "3.12.0-uv"):
        (directory / "pythons" / name / "bin").mkdir(parents=True)
        (directory / "pythons" / name / "bin/python3").touch()
    (directory / "venvs/one/bin").mkdir()
    (directory / "venvs/one/bin/python").symlink_to(directory / "pythons/3.12.1-uv/bin/python3")
    confirm(directory)
    assert [path.name for path in (directory / "pythons").iterdir()] == ["3.12.1-uv"]
