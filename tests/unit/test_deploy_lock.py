"""Tests of the lock that lets one deploy at a time change an environment."""

import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).parents[2]
ROLE = PROJECT / "roles/deploy_lock"
FORK = multiprocessing.get_context("fork")
PAST, FUTURE = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"


def load(folder: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"deploy_lock_{folder}", ROLE / folder / "deploy_lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULE, ACTION = load("library"), load("action_plugins")


def holder(process: int, who: str = "alice@laptop") -> dict:
    return {"who": who, "what": "site.yml", "process": {"id": process, "started": "1", "kernel": "boot"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock.json"


def held(path: Path, process: int = 1, until: str = FUTURE) -> dict:
    record = holder(process) | {"since": PAST, "until": until}
    path.write_text(json.dumps(record))
    return record


def test_a_free_lock_is_taken_and_says_by_whom(path: Path) -> None:
    assert MODULE.take(path, holder(1), 60) == ({}, "")
    record = json.loads(path.read_text())
    assert holder(1).items() <= record.items()
    assert record["since"] < record["until"]


def test_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "deploys/lock.json"
    MODULE.take(path, holder(1), 60)
    assert path.parent.stat().st_mode & 0o777 == 0o755


def test_a_folder_that_others_may_write_to_is_refused(path: Path) -> None:
    """They could hold the lock, or forge its owner."""
    path.parent.chmod(0o1777)
    with pytest.raises(OSError, match="others may write in"):
        MODULE.take(path, holder(1), 60)
    assert not path.exists()


def test_another_is_refused_and_told_who_holds_it(path: Path) -> None:
    record = held(path)
    with pytest.raises(MODULE.HeldError, match=r"alice@laptop for site.yml \(process 1\) since 2020-01-01T00:00:00Z"):
        MODULE.take(path, holder(2), 60)
    assert json.loads(path.read_text()) == record


@pytest.mark.parametrize("until", [PAST, FUTURE])
def test_the_same_process_renews_it(path: Path, until: str) -> None:
    held(path, until=until)
    assert MODULE.take(path, holder(1), 60) == ({}, "")
    record = json.loads(path.read_text())
    assert record["since"] == PAST
    assert PAST < record["until"] < FUTURE


def test_what_is_lost_is_not_renewed(path: Path) -> None:
    with pytest.raises(MODULE.LostError):
        MODULE.take(path, holder(1), 60, renew=True)
    assert not path.read_text()
    # Neither from one that has ended, or whose lease has.
    record = held(path, process=2, until=PAST)
    with pytest.raises(MODULE.HeldError):
        MODULE.take(path, holder(1), 60, ended=record["process"], renew=True)
    assert json.loads(path.read_text()) == record
    held(path, until=PAST)
    assert MODULE.take(path, holder(1), 60, renew=True) == ({}, "")


def test_a_process_that_ended_is_followed(path: Path) -> None:
    record = held(path)
    assert MODULE.take(path, holder(2), 60, ended=record["process"]) == (
        record,
        "that process ended without releasing it",
    )
    assert json.loads(path.read_text())["process"]["id"] == 2


def test_whoever_followed_it_first_is_left_alone(path: Path) -> None:
    held(path, process=3)
    with pytest.raises(MODULE.HeldError):
        MODULE.take(path, holder(2), 60, ended=holder(1)["process"])


def test_a_lease_that_ended_is_followed(path: Path) -> None:
    record = held(path, until=PAST)
    assert MODULE.take(path, holder(2), 60) == (record, f"its lease ended at {PAST}")
    assert json.loads(path.read_text())["process"]["id"] == 2


@pytest.mark.parametrize("content", ["{", "[]", "null", "\0\xff", '{"who": "alice"}', '{"process": 1}'])
def test_a_damaged_file_is_followed(path: Path, content: str) -> None:
    path.write_bytes(content.encode("latin-1"))
    assert MODULE.take(path, holder(2), 60) == ({}, "its lock file was damaged")
    assert json.loads(path.read_text())["process"]["id"] == 2


def test_an_empty_file_holds_nothing(path: Path) -> None:
    path.touch()
    assert MODULE.take(path, holder(2), 60) == ({}, "")


def test_the_holder_releases_it(path: Path) -> None:
    record = held(path)
    assert MODULE.release(path, holder(1)["process"]) == record
    assert not path.exists()
    assert MODULE.release(path, holder(1)["process"]) is None


@pytest.mark.parametrize("content", [None, "{", ""])
def test_nobody_else_releases_it(path: Path, content: str | None) -> None:
    held(path)
    if content is not None:
        path.write_text(content)
    assert MODULE.release(path, holder(2)["process"]) is None
    assert path.exists()


def test_it_can_be_broken(path: Path) -> None:
    assert MODULE.release(path, None) is None
    record = held(path)
    assert MODULE.release(path, None) == record
    assert not path.exists()


def test_check_mode_writes_nothing(path: Path) -> None:
    assert MODULE.take(path, holder(1), None) == ({}, "")
    assert not path.exists()
    record = held(path, until=PAST)
    assert MODULE.take(path, holder(2), None)[0] == record
    assert MODULE.release(path, None, dry=True) == record
    assert json.loads(path.read_text()) == record


def test_what_is_no_file_of_its_own_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        MODULE.take(tmp_path / "nowhere/below/lock.json", holder(1), 60)
    path.symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic link"):
        MODULE.take(path, holder(1), 60)
    assert not (tmp_path / "other").exists()


def win(path: Path, before: str) -> int:
    """Let processes take one lock at once, and count those that got it."""
    start = FORK.Barrier(6)

    def compete(process: int) -> None:
        start.wait()
        try:
            MODULE.take(path, holder(process), 60, ended=holder(1)["process"])
        except MODULE.HeldError:
            sys.exit(1)

    if before == "free":
        path.unlink(missing_ok=True)
    else:
        held(path, until=PAST if before == "expired" else FUTURE)
    rivals = [FORK.Process(target=compete, args=(number,)) for number in range(2, 8)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join()
    return [rival.exitcode for rival in rivals].count(0)


@pytest.mark.parametrize("before", ["free", "expired", "ended"])
def test_of_those_who_ask_at_once_one_gets_it(path: Path, before: str) -> None:
    assert [win(path, before) for _ in range(10)] == [1] * 10


def test_who_waited_for_a_file_that_was_removed_makes_another(path: Path) -> None:
    opened = FORK.Event()

    def follow() -> None:
        opened.wait()
        MODULE.take(path, holder(2), 60)

    # Started before: a child would share what its parent has open, and so the parent's turn.
    waiting = FORK.Process(target=follow, daemon=True)
    waiting.start()
    with MODULE.opened(path, create=True):
        opened.set()
        waiting.join(0.3)
        assert waiting.is_alive()
        path.unlink()
    waiting.join(5)
    assert json.loads(path.read_text())["process"]["id"] == 2


@pytest.fixture
def child() -> Iterator[subprocess.Popen]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def record_of(process: int) -> dict:
    me = ACTION.find_holder()
    return me | {"process": me["process"] | {"id": process, "started": ACTION.look_up(process)[1]}}


def test_a_process_that_lives_has_not_ended(child: subprocess.Popen) -> None:
    assert not ACTION.has_ended(record_of(child.pid), ACTION.find_holder())


def test_a_killed_process_has_ended_before_and_after_its_parent_notices(child: subprocess.Popen) -> None:
    record = record_of(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert ACTION.has_ended(record, ACTION.find_holder())
    child.wait()
    assert ACTION.has_ended(record, ACTION.find_holder())


def test_a_number_that_is_used_again_is_noticed(child: subprocess.Popen) -> None:
    record = record_of(child.pid)
    record["process"]["started"] = "0"
    assert ACTION.has_ended(record, ACTION.find_holder())


@pytest.mark.parametrize("difference", ["boot", "name", "nothing is known"])
def test_what_another_machine_runs_is_not_known(child: subprocess.Popen, difference: str) -> None:
    record, me = record_of(child.pid), ACTION.find_holder()
    child.kill()
    child.wait()
    if difference == "boot":
        record["process"]["kernel"] = "another"
    elif difference == "name":
        record["who"] = "alice@elsewhere"
    else:
        record["process"]["kernel"] = me["process"]["kernel"] = ""
    assert not ACTION.has_ended(record, me)


def test_another_users_process_lives(child: subprocess.Popen, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    record, me = record_of(child.pid), ACTION.find_holder()
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", refuse)
        patch.setattr(ACTION, "look_up", lambda _: ("", ""))
        assert not ACTION.has_ended(record, me)


@pytest.mark.skipif(
    not Path("/bin/ps").exists(), reason="ps is asked where there is no /proc, and a bare Debian has none"
)
def test_without_proc_the_command_shows_processes(child: subprocess.Popen) -> None:
    state, started = ACTION.list_processes()[str(child.pid)]
    assert state.startswith("S")
    assert time.strptime(started)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert ACTION.list_processes()[str(child.pid)][0].startswith("Z")


def tasks(entry: str) -> dict:
    return {"ansible.builtin.import_role": {"name": "deploy_lock", "tasks_from": entry}}


@pytest.fixture
def start(tmp_path: Path, path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Give a function that starts a playbook: one that holds the lock until a file is there, or the one named."""
    names = {"lvao-one": None, "lvao-two": None}
    shared = {
        "ansible_connection": "local",
        "deploy_lock_host": "lvao-two",
        "deploy_lock_environment": "preprod",
        "deploy_lock_path": str(path),
    }
    (tmp_path / "hosts.json").write_text(json.dumps({"airflow": {"hosts": names, "vars": shared}}))
    wait = {"ansible.builtin.wait_for": {"path": str(tmp_path / "go"), "sleep": 1, "timeout": 20}}
    work = {"ansible.builtin.command": "{{ command }}", "changed_when": False}
    block = [tasks("take"), tasks("take"), wait, tasks("take"), work]
    play = {"hosts": "all", "gather_facts": False, "any_errors_fatal": True}
    deploy = tmp_path / "deploy.yml"
    deploy.write_text(json.dumps([play | {"tasks": [{"block": block, "always": [tasks("release")]}]}]))

    def run(playbook: Path = deploy, command: str = "true") -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ansible-playbook", "-i", tmp_path / "hosts.json", playbook, "--extra-vars", f"command={command}"],
            cwd=PROJECT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return run


def wait_until_held(path: Path) -> dict:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists() and path.stat().st_size:
            return json.loads(path.read_text())
        time.sleep(0.05)
    message = f"nobody took {path}"
    raise AssertionError(message)


def test_a_second_playbook_is_refused_and_follows_the_first_once_that_is_dead(
    start: Callable, path: Path, tmp_path: Path
) -> None:
    first = start()
    record = wait_until_held(path)
    assert record["process"]["id"] == first.pid
    assert record["what"] == str(tmp_path / "deploy.yml")
    whose = f"{record['who']} for {record['what']} (process {first.pid}) since {record['since']}"

    second = start()
    output = second.communicate()[0]
    assert second.returncode == 2, output
    assert f"Locked by {whose}: wait until that is over, or, if it hangs" in output
    assert "break the lock with 'make unlock ENV=preprod'." in output
    assert json.loads(path.read_text())["process"] == record["process"]

    first.kill()
    first.communicate()
    (tmp_path / "go").touch()
    third = start()
    output = third.communicate()[0]
    assert third.returncode == 0, output
    assert f"Took over the lock of {whose}: that process ended without releasing it." in " ".join(output.split())
    assert not path.exists()


def test_of_two_started_at_once_one_is_refused_and_the_other_changes_nothing(
    start: Callable, path: Path, tmp_path: Path
) -> None:
    both = [start(), start()]
    winner = wait_until_held(path)["process"]["id"]
    won, lost = sorted(both, key=lambda one: one.pid != winner)
    output = lost.communicate()[0]
    assert lost.returncode == 2, output
    assert f"(process {winner})" in output
    (tmp_path / "go").touch()
    output = won.communicate()[0]
    assert won.returncode == 0, output
    assert output.count("changed=0") == 2
    assert not path.exists()


def test_a_run_that_fails_releases_the_lock(start: Callable, path: Path, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    run = start(command="false")
    output = run.communicate()[0]
    assert run.returncode == 2, output
    assert "non-zero return code" in output
    assert not path.exists()


def test_a_run_whose_lock_another_had_meanwhile_ends(start: Callable, path: Path, tmp_path: Path) -> None:
    run = start(command=f"touch {tmp_path}/changed")
    wait_until_held(path)
    path.unlink()  # as another does in the end, or as one breaks it
    (tmp_path / "go").touch()
    output = run.communicate()[0]
    assert run.returncode == 2, output
    assert "This run has lost the lock" in output
    assert not (tmp_path / "changed").exists()


def test_unlock_breaks_the_lock_and_says_whose_it_was(start: Callable, path: Path) -> None:
    held(path)
    broken = start(PROJECT / "playbooks/unlock.yml")
    output = broken.communicate()[0]
    assert broken.returncode == 0, output
    assert f"preprod: Broke the lock of alice@laptop for site.yml (process 1) since {PAST}." in " ".join(output.split())
    assert not path.exists()
