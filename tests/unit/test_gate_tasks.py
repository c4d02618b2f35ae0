"""The check of a release asks the live one about its faults, and a deploy says what it warns of."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SCHEMA = {"unknown_revision": {}}
REFUSED = {"schema": SCHEMA, "warnings": ["dags/asks.py: refused"], "failing": {"a.py": []}, "others": []}
KNOWN = {"schema": SCHEMA, "warnings": ["dags/a.py: KeyError; the live release shows it as well"]}


@dataclass
class Host:
    """A folder with a new release and a live one, whose checks say what they are told to.

    Attributes:
        folder: where it is.
    """

    folder: Path

    def release(self, name: str, status: int, facts: dict | None, faults: str = "") -> Path:
        """Make a release, whose check ends like that."""
        release = self.folder / "releases" / name
        for folder in ("bin", "dags", "libexec"):
            (release / folder).mkdir(parents=True)
        (release / "facts").write_text(json.dumps(facts) if facts else "")
        (release / "faults").write_text(faults)
        (release / "libexec/gate_known.py").touch()
        (release / "bin/airflow").write_text(
            f'#!/bin/sh\ncd {release}\necho "$@" >asked\ncat >stdin\ncat facts\ncat faults >&2\nexit {status}\n'
        )
        (release / "bin/airflow").chmod(0o755)
        return release

    def check(self, **values: object) -> subprocess.CompletedProcess[str]:
        """Run the role's check of the new release."""
        playbook = self.folder / "gate.yml"
        include = {"name": "airflow", "tasks_from": "gate"}
        play = {"hosts": "localhost", "gather_facts": False, "tasks": [{"ansible.builtin.import_role": include}]}
        playbook.write_text(json.dumps([play]))
        values |= {"airflow_directory": str(self.folder), "airflow_release": str(self.folder / "releases/new")}
        values |= {"airflow_secrets": "/nowhere", "ansible_connection": "local", "ansible_facts": {}}
        return subprocess.run(
            ["ansible-playbook", "-i", "localhost,", playbook, "-e", json.dumps(values)],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "current").symlink_to(tmp_path / "releases/live")
    return Host(tmp_path)


def test_what_the_live_release_shows_as_well_is_a_warning(host: Host) -> None:
    new = host.release("new", 1, REFUSED, "1 fault in release new:\ndags/a.py: KeyError")
    live = host.release("live", 0, KNOWN)
    ended = host.check(airflow_gate_warn=["asks.py", "imports/*"], airflow_gate_file_timeout=90)
    assert ended.returncode == 0, ended.stdout
    assert KNOWN["warnings"][0] in ended.stdout
    options = "--file-timeout=90 --warn=asks.py --warn=imports/*"
    assert (new / "asked").read_text() == f"{new}/libexec/gate.py {new} {options}\n"
    assert (live / "asked").read_text() == f"{new}/libexec/gate.py {host.folder}/current --live-of=new {options}\n"
    assert json.loads((live / "stdin").read_text()) == REFUSED


def test_what_is_left_refuses_the_release(host: Host) -> None:
    host.release("new", 1, REFUSED, "2 faults in release new:\ndags/a.py: KeyError\ndags/b.py: KeyError")
    host.release("live", 1, KNOWN, "1 fault in release new:\ndags/b.py: KeyError")
    ended = host.check()
    assert ended.returncode == 2
    assert "1 fault in release new:" in ended.stdout
    assert KNOWN["warnings"][0] in ended.stdout


def test_where_the_live_release_cannot_tell_all_faults_count(host: Host) -> None:
    host.release("new", 1, REFUSED, "1 fault in release new:\ndags/a.py: KeyError")
    host.release("live", 2, None, "the check fails: ImportError")
    ended = host.check()
    assert ended.returncode == 2
    assert "1 fault in release new:" in ended.stdout
    assert REFUSED["warnings"][0] in ended.stdout


def test_the_check_of_a_release_from_before_is_told_nothing_that_it_does_not_know(host: Host) -> None:
    new = host.release("new", 1, None, "1 fault in release new:\ndags/a.py: KeyError")
    live = host.release("live", 0, KNOWN)
    (new / "libexec/gate_known.py").unlink()
    ended = host.check(airflow_gate_warn=["a.py"], airflow_gate_file_timeout=90)
    assert ended.returncode == 2
    assert "dags/a.py: KeyError" in ended.stdout
    assert (new / "asked").read_text() == f"{new}/libexec/gate.py {new}\n"
    assert not (live / "asked").exists()


def test_a_release_without_faults_asks_nobody(host: Host) -> None:
    host.release("new", 0, {"schema": SCHEMA, "warnings": []})
    live = host.release("live", 0, KNOWN)
    ended = host.check()
    assert ended.returncode == 0, ended.stdout
    assert "Warn of" not in ended.stdout
    assert not (live / "asked").exists()


def test_the_first_release_has_no_live_one_to_ask(host: Host) -> None:
    host.release("new", 1, REFUSED, "1 fault in release new:\ndags/a.py: KeyError")
    (host.folder / "current").unlink()
    ended = host.check()
    assert ended.returncode == 2
    assert "dags/a.py: KeyError" in ended.stdout
