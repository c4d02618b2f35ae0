"""Tests of the module that writes the files of a release, run as Ansible runs it."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "roles/airflow/library/file_tree.py"
SECRET = {"path": "etc/env.d/10-core.env", "content": "A=1\n", "mode": "0600"}
COMMAND = {"path": "bin/airflow", "content": "#!/bin/sh\n", "mode": "0755"}


def run(root: Path, *files: dict[str, str], check: bool = False, purge: bool = False) -> dict:
    arguments = {
        "path": str(root / "next"),
        "directories": ["bin", "etc"],
        "files": files,
        "purge": purge,
        "_ansible_check_mode": check,
        "_ansible_remote_tmp": str(root),
    }
    ended = subprocess.run(
        [sys.executable, SOURCE],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(ended.stdout)


def modes(root: Path) -> dict[str, str]:
    paths = [root / "next", *(root / "next").rglob("*")]
    return {str(path.relative_to(root)): f"{stat.S_IMODE(path.stat().st_mode):o}" for path in paths}


def test_what_is_secret_is_closed_with_its_directories(tmp_path: Path) -> None:
    assert run(tmp_path, SECRET, COMMAND)["changed"]
    assert modes(tmp_path) == {
        "next": "700",
        "next/bin": "755",
        "next/bin/airflow": "755",
        "next/etc": "755",
        "next/etc/env.d": "700",
        "next/etc/env.d/10-core.env": "600",
    }


def test_a_second_run_changes_nothing_and_finds_the_same(tmp_path: Path) -> None:
    first, second = run(tmp_path, SECRET, COMMAND), run(tmp_path, SECRET, COMMAND)
    assert not second["changed"]
    assert second["digests"] == first["digests"]
    assert second["diff"] == []


@pytest.mark.parametrize("what", ["content", "mode of a file", "mode of a directory"])
def test_what_somebody_changed_is_made_good(tmp_path: Path, what: str) -> None:
    run(tmp_path, SECRET)
    path = tmp_path / "next/etc/env.d/10-core.env"
    if what == "content":
        path.write_text("B=2\n")
    elif what == "mode of a file":
        path.chmod(0o644)
    else:
        path.parent.chmod(0o755)
    before = modes(tmp_path)
    assert run(tmp_path, SECRET, check=True)["changed"]
    assert modes(tmp_path) == before
    assert run(tmp_path, SECRET)["changed"]
    assert path.read_text() == "A=1\n"
    assert modes(tmp_path)["next/etc/env.d/10-core.env"] == "600"
    assert modes(tmp_path)["next/etc/env.d"] == "700"


def test_others_stay_unless_they_are_to_go(tmp_path: Path) -> None:
    run(tmp_path, SECRET, COMMAND)
    assert set(run(tmp_path, COMMAND)["digests"]) == {SECRET["path"], COMMAND["path"]}
    assert set(run(tmp_path, COMMAND, purge=True, check=True)["digests"]) == {COMMAND["path"]}
    assert (tmp_path / "next" / SECRET["path"]).exists()
    purged = run(tmp_path, COMMAND, purge=True)
    assert set(purged["digests"]) == {COMMAND["path"]}
    assert purged["diff"][0]["after"] == ""
    assert not (tmp_path / "next" / SECRET["path"]).exists()


def test_check_mode_says_what_would_be_and_writes_nothing(tmp_path: Path) -> None:
    said = run(tmp_path, SECRET, check=True)
    assert not (tmp_path / "next").exists()
    assert said["diff"][0]["after"] == SECRET["content"]
    assert said["digests"] == run(tmp_path, SECRET)["digests"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"path": "etc/../../x"}, "the path etc/../../x is not in one of bin, etc"),
        ({"path": "lib/x"}, "the path lib/x is not in one of bin, etc"),
        ({"path": "etc"}, "the path etc is not in one of bin, etc"),
        ({"mode": "u=rw"}, "the mode of etc/env.d/10-core.env is u=rw: it must be octal digits, such as 0644"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(tmp_path: Path, wrong: dict[str, str], message: str) -> None:
    said = run(tmp_path, COMMAND, SECRET | wrong)
    assert said["failed"]
    assert said["msg"] == message
    assert not (tmp_path / "next").exists()
