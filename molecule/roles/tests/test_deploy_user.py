"""The user that Ansible logs in as takes the keys that are listed, and Ansible does not lock itself out."""

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROJECT, apply_role, said
from testinfra.host import Host

ADDRESS = "172.29.215.11"
OURS = PROJECT / ".cache/molecule-roles/ssh"
KEYS = "/home/debian/.ssh/authorized_keys"
TRIAL = "lvao-deploy-user-trial"


def gets_in(key: Path) -> bool:
    """Tell whether a key lets somebody in."""
    command = ["ssh", "-F", "none", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no"]
    command += ["-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", f"debian@{ADDRESS}", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Make another key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    return tmp_path / "key"


@pytest.fixture(autouse=True)
def _known_to_nobody(host: Host) -> Iterator[None]:
    """Have the SSH server forget who failed to get in: it keeps them out for a while."""
    yield
    host.check_output("systemctl restart ssh")


@pytest.fixture
def _put_back(host: Host) -> Iterator[None]:
    """Bring back the keys of before."""
    host.check_output(f"cp --preserve {KEYS} /root/keys-of-before")
    yield
    host.check_output(f"mv /root/keys-of-before {KEYS}")


def entry(name: str, key: Path, **more: object) -> dict:
    return {"name": name, "key": key.with_suffix(".pub").read_text(), **more}


def test_the_keys_that_are_listed_are_there_alone(host: Host) -> None:
    (line,) = host.file(KEYS).content_string.splitlines()
    body = OURS.with_suffix(".pub").read_text().split()[1]
    assert line == f'from="172.29.215.0/24" ssh-ed25519 {body} ci'


@pytest.mark.usefixtures("_put_back")
def test_a_key_rotates(host: Host, other: Path) -> None:
    host.check_output(f"cat >> {KEYS}2 <<'END'\n{other.with_suffix('.pub').read_text()}\nEND")
    ended = apply_role(host, "deploy_user", deploy_user_keys=[entry("ci", OURS), entry("ci-2", other)])
    assert ended.returncode == 0, ended.stdout
    assert gets_in(other)
    assert not host.file(f"{KEYS}2").exists
    ended = apply_role(host, "deploy_user", deploy_user_keys=[entry("ci", OURS)])
    assert ended.returncode == 0, ended.stdout
    assert not gets_in(other)
    assert gets_in(OURS)
    assert not host.service(TRIAL).is_running


@pytest.mark.usefixtures("_put_back")
def test_the_trial_of_a_run_that_was_cut_off_does_not_pass_for_the_keys(host: Host, other: Path) -> None:
    public = "".join(key.with_suffix(".pub").read_text() for key in (OURS, other))
    host.check_output(f"mkdir --parents /run/{TRIAL} && printf %s {shlex.quote(public)} > /run/{TRIAL}/authorized_keys")
    host.check_output(
        f"systemd-run --collect --unit={TRIAL} --service-type=exec --property=ExecStartPre='/usr/bin/mount --bind "
        f"/run/{TRIAL} {KEYS.rpartition('/')[0]}' --property=ExecStopPost='/usr/bin/umount --lazy "
        f"{KEYS.rpartition('/')[0]}' /usr/bin/sleep 600"
    )
    assert gets_in(other)
    ended = apply_role(host, "deploy_user", deploy_user_keys=[entry("ci", OURS), entry("ci-2", other)])
    assert ended.returncode == 0, ended.stdout
    assert not host.service(TRIAL).is_running
    assert "ci-2" in host.file(KEYS).content_string
    assert gets_in(other)


def test_keys_that_would_lock_ansible_out_are_not_written(host: Host, other: Path) -> None:
    before = host.file(KEYS).content_string
    ended = apply_role(host, "deploy_user", deploy_user_keys=[entry("ci-2", other)], deploy_user_confirm_timeout=15)
    assert ended.returncode == 2, ended.stdout
    assert "Ansible does not get into lvao-molecule-roles as debian by deploy_user_keys" in said(ended)
    assert host.file(KEYS).content_string == before
    assert not host.service(TRIAL).is_running
