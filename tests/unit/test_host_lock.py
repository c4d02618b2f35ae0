"""The lock of a host, which the scripts of a release hold one at a time."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LIBEXEC = Path(__file__).parents[2] / "roles/airflow/files/libexec"


class Host:
    """A folder with a release, and with what root notes."""

    def __init__(self, folder: Path) -> None:
        """Make a script of the release that says that it runs, and waits for a file."""
        self.notes = folder / "notes"
        self.lock = self.notes / "lock"
        self.script = folder / "releases/one/libexec/script"
        self.script.parent.mkdir(parents=True)
        shutil.copy(LIBEXEC / "common.sh", self.script.parent)
        self.script.write_text(
            '#!/bin/bash\n. "$(dirname "$0")/common.sh"\necho runs\n[ ! -e "${1-}" ] || "$@"\nread -r\n'
        )
        self.script.chmod(0o755)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the script to its end."""
        environment = os.environ | {"LVAO_NOTES": str(self.notes), "LVAO_LOCK_SECONDS": "1"} | environment
        return subprocess.run(
            [self.script, *arguments], input="\n\n", capture_output=True, text=True, check=False, env=environment
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have another run of the script hold the lock."""
        environment = os.environ | {"LVAO_NOTES": str(self.notes)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen([self.script], env=environment, **pipes) as holder:
            assert holder.stdout.readline() == "runs\n"
            yield
            holder.communicate("\n")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host on which nothing has run yet."""
    return Host(tmp_path)


def test_it_is_root_s_and_names_its_holder(host: Host) -> None:
    assert host.run().returncode == 0
    assert host.lock.stat().st_mode & 0o077 == 0
    assert host.lock.read_text().startswith(f"{host.script}, process ")


def test_without_it_nothing_goes_on(host: Host) -> None:
    host.lock.mkdir(parents=True)
    ended = host.run()
    assert ended.returncode != 0
    assert "runs" not in ended.stdout
    host.lock.rmdir()
    host.notes.rmdir()
    host.notes.write_text("")
    ended = host.run()
    assert ended.returncode != 0
    assert "runs" not in ended.stdout


def test_who_waits_says_for_whom_and_gives_up(host: Host) -> None:
    with host.running():
        ended = host.run()
        assert ended.returncode == 1
        assert "runs" not in ended.stdout
        waits, gives_up = ended.stderr.splitlines()
        assert waits.startswith(f"script waits for {host.script}, process ")
        assert gives_up.startswith(f"script gives up: {host.script}, process ")
    assert host.run().returncode == 0


def test_a_script_that_another_one_calls_is_within_its_lock(host: Host) -> None:
    ended = host.run(str(host.script))
    assert (ended.returncode, ended.stdout) == (0, "runs\nruns\n")


def test_a_question_waits_for_nobody(host: Host) -> None:
    shutil.copy(LIBEXEC / "switched", host.script.parent)
    question = host.script.with_name("switched")
    with host.running():
        environment = os.environ | {"LVAO_NOTES": str(host.notes)}
        ended = subprocess.run([question], capture_output=True, text=True, timeout=20, check=False, env=environment)
    assert (ended.returncode, ended.stderr) == (1, "")
