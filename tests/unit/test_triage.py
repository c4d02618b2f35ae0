"""What the list of an intruder's traces says of a host."""

import pwd
import runpy
import subprocess
from pathlib import Path

import pytest

TRIAGE = runpy.run_path(str(Path(__file__).parents[2] / "roles/common/files/triage.py"))


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Make a key, and return its public half and its fingerprint, as OpenSSH says them."""
    file = tmp_path_factory.mktemp("ssh") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "mallory", "-f", file], check=True)
    said = subprocess.run(["ssh-keygen", "-lf", file], check=True, capture_output=True, text=True).stdout
    return file.with_suffix(".pub").read_text().strip(), said.split()[1]


def user(home: Path, name: str = "debian", uid: int = 1000, shell: str = "/bin/bash") -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, uid, "", str(home), shell))


def test_keys_are_shown_by_their_fingerprints(tmp_path: Path, key: tuple[str, str]) -> None:
    line, fingerprint = key
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/authorized_keys").write_text(f"# mine\n\n{line}\n")
    (tmp_path / ".ssh/authorized_keys2").write_text(f'from="10.0.0.1",command="echo a b" {line}\nnonsense\n')
    assert list(TRIAGE["keys"]({}, [user(tmp_path)])) == [
        f"debian: {fingerprint} mallory, in {tmp_path}/.ssh/authorized_keys",
        f'debian: {fingerprint} mallory [from="10.0.0.1",command="echo a b"], in {tmp_path}/.ssh/authorized_keys2',
        f"debian: no key: nonsense, in {tmp_path}/.ssh/authorized_keys2",
    ]


def test_keys_are_looked_for_where_the_server_does(tmp_path: Path, key: tuple[str, str]) -> None:
    (tmp_path / "debian").write_text(key[0])
    settings = {
        "authorizedkeysfile": f"{tmp_path}/%u",
        "trustedusercakeys": "/etc/ssh/ca",
        "authorizedkeyscommand": "none",
    }
    assert list(TRIAGE["keys"](settings, [user(tmp_path / "home")])) == [
        f"debian: {key[1]} mallory, in {tmp_path}/debian",
        "everybody: by trustedusercakeys of the SSH server, which is /etc/ssh/ca",
    ]


def test_who_is_root_by_another_name_is_named(tmp_path: Path) -> None:
    users = [user(tmp_path, "toor", 0), user(tmp_path, "root", 0), user(tmp_path, "www", 33, "/usr/sbin/nologin")]
    assert list(TRIAGE["logins"](users)) == ["toor: is root by another name", "root: /bin/bash"]


def test_files_of_no_package_are_named_and_those_of_this_project_apart(tmp_path: Path) -> None:
    units, packages = tmp_path / "system", tmp_path / "packages"
    for folder in (units / "timers.target.wants", units / "ssh.service.d", packages):
        folder.mkdir(parents=True)
    (packages / "ssh.service").touch()
    (units / "evil.timer").touch()
    (units / "lvao-airflow-triggerer.service").touch()
    (units / "ssh.service.d/lvao.conf").touch()
    (units / "sshd.service").symlink_to(packages / "ssh.service")
    (units / "masked.service").symlink_to("/dev/null")
    (units / "timers.target.wants/evil.timer").symlink_to(units / "evil.timer")
    assert list(TRIAGE["foreign"]([str(units), str(tmp_path / "nothing")], {str(packages / "ssh.service")})) == [
        f"{units}/evil.timer",
        f"{units}/timers.target.wants/evil.timer, which is {units}/evil.timer",
        "of this project, by their names: lvao-airflow-triggerer.service, ssh.service.d/lvao.conf",
    ]


def test_what_packages_bring_is_known_by_both_of_its_paths(tmp_path: Path) -> None:
    (tmp_path / "openssh.list").write_text("/lib/systemd/system/ssh.service\n/usr/bin/ssh\n")
    assert TRIAGE["packaged"](tmp_path) == {
        "/lib/systemd/system/ssh.service",
        "/usr/lib/systemd/system/ssh.service",
        "/usr/bin/ssh",
    }
